//! Geographies as WKT or GeoJSON. The checks find most values that BigQuery would refuse, but not
//! all.

use message::json::wide_number;
use serde_json::Value;

/// Kinds of geometry as GeoJSON writes them. WKT writes them in capitals.
const KINDS: [&str; 7] = [
    "Point",
    "LineString",
    "Polygon",
    "MultiPoint",
    "MultiLineString",
    "MultiPolygon",
    "GeometryCollection",
];

/// Returns the text of a geography, which is WKT or GeoJSON. GeoJSON may be a text or an object.
pub(super) fn text(value: &Value) -> Option<String> {
    match value {
        Value::String(text) if is_wkt(text) => Some(text.clone()),
        Value::String(text) => {
            let json = serde_json::from_str(text).ok()?;
            is_geojson(&json).then(|| text.clone())
        }
        json => is_geojson(json).then(|| with_numbers(json).to_string()),
    }
}

/// Returns GeoJSON in which each coordinate is a number.
///
/// A coordinate with more digits than 64 bits hold comes as a text. A geography has 64 bits for it.
fn with_numbers(json: &Value) -> Value {
    match json {
        Value::String(text) => {
            let number = wide_number(text).filter(|number| number.is_finite());
            number.map_or_else(|| json.clone(), Value::from)
        }
        Value::Array(list) => list.iter().map(with_numbers).collect(),
        Value::Object(members) => {
            let members = members.iter().map(|(name, value)| (name.clone(), with_numbers(value)));
            Value::Object(members.collect())
        }
        other => other.clone(),
    }
}

fn is_geojson(value: &Value) -> bool {
    let kind = value["type"].as_str().unwrap_or_default();
    let member = if kind == "GeometryCollection" { "geometries" } else { "coordinates" };
    KINDS.contains(&kind) && value[member].is_array()
}

/// Returns true for a kind of geometry, followed by `EMPTY` or by balanced brackets.
fn is_wkt(text: &str) -> bool {
    let text = text.trim().to_ascii_uppercase();
    let end = text.find(|char: char| !char.is_ascii_alphabetic()).unwrap_or(text.len());
    let (kind, rest) = text.split_at(end);
    let rest = rest.trim();
    if !KINDS.iter().any(|known| known.eq_ignore_ascii_case(kind)) {
        return false;
    }
    rest == "EMPTY" || is_bracketed(rest)
}

/// Returns true for text in one outer pair of brackets, with balanced brackets inside.
fn is_bracketed(text: &str) -> bool {
    let mut depth = 0_usize;
    for (at, char) in text.char_indices() {
        match char {
            '(' => depth += 1,
            ')' if depth == 0 => return false,
            ')' => depth -= 1,
            _ if depth == 0 => return false,
            ' ' | ',' | '.' | '+' | '-' | '0'..='9' | 'A'..='Z' => {}
            _ => return false,
        }
        if depth == 0 && at + 1 < text.len() {
            return false;
        }
    }
    depth == 0 && text.len() > 2
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn wkt_and_geojson_are_geographies() {
        for taken in [
            json!("POINT(13.4 52.5)"),
            json!("point (-1e2 +52.5)"),
            json!("POLYGON((0 0, 0 1, 1 1, 0 0))"),
            json!("GEOMETRYCOLLECTION(POINT(1 2), LINESTRING(0 0, 1 1))"),
            json!("LINESTRING EMPTY"),
            json!(r#"{"type": "Point", "coordinates": [13.4, 52.5]}"#),
        ] {
            assert_eq!(text(&taken).as_deref(), taken.as_str(), "{taken}");
        }
        let object = json!({ "type": "Point", "coordinates": [13.4, 52.5] });
        assert_eq!(text(&object), Some(object.to_string()));
        let many = json!({ "type": "GeometryCollection", "geometries": [object] });
        assert_eq!(text(&many), Some(many.to_string()));
    }

    #[test]
    fn what_is_no_geography_is_refused() {
        for refused in [
            json!("Berlin"),
            json!("POINT"),
            json!("POINT()"),
            json!("POINT(1 2"),
            json!("POINT(1 2))"),
            json!("POINT(1 2) POINT(1 2)"),
            json!("POINT(1; 2)"),
            json!("CIRCLE(1 2)"),
            json!("13.4, 52.5"),
            json!({ "type": "Feature", "geometry": null }),
            json!({ "type": "Point" }),
            json!([13.4, 52.5]),
            json!(13.4),
        ] {
            assert_eq!(text(&refused), None, "{refused}");
        }
    }
}
