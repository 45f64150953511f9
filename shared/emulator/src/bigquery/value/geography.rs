//! Geographies: accepted as WKT or GeoJSON, and stored as WKT.

use serde_json::Value;

const KINDS: [&str; 7] = [
    "Point",
    "LineString",
    "Polygon",
    "MultiPoint",
    "MultiLineString",
    "MultiPolygon",
    "GeometryCollection",
];

/// Returns a geography in WKT; `None` if the text is not a geography.
pub(super) fn normal(text: &str) -> Option<String> {
    let text = text.trim();
    match serde_json::from_str(text) {
        Ok(json) => from_geojson(&json),
        Err(_) => is_wkt(text).then(|| text.to_owned()),
    }
}

fn from_geojson(value: &Value) -> Option<String> {
    let kind = value["type"].as_str().filter(|kind| KINDS.contains(kind))?;
    let inner = match kind {
        "GeometryCollection" => {
            let parts: Option<Vec<_>> =
                value["geometries"].as_array()?.iter().map(from_geojson).collect();
            parts?.join(", ")
        }
        "Point" => position(&value["coordinates"])?,
        _ => list(value["coordinates"].as_array()?)?,
    };
    Some(format!("{}({inner})", kind.to_ascii_uppercase()))
}

/// Writes nested coordinates. Positions are pairs of numbers, and lists of positions are in
/// brackets.
fn list(items: &[Value]) -> Option<String> {
    let inner: Option<Vec<_>> = items
        .iter()
        .map(|item| match item.as_array()?.first()? {
            Value::Array(_) => Some(format!("({})", list(item.as_array()?)?)),
            _ => position(item),
        })
        .collect();
    Some(inner?.join(", "))
}

/// Writes a position: degrees of longitude and latitude.
fn position(value: &Value) -> Option<String> {
    let [longitude, latitude] = value.as_array()?.as_slice() else { return None };
    is_on_earth(longitude.as_f64()?, latitude.as_f64()?).then(|| format!("{longitude} {latitude}"))
}

fn is_on_earth(longitude: f64, latitude: f64) -> bool {
    longitude.is_finite() && latitude.abs() <= 90.0
}

/// Returns true for a kind of geography, followed by pairs of numbers in brackets.
fn is_wkt(text: &str) -> bool {
    let Some((kind, inner)) = text.strip_suffix(')').and_then(|text| text.split_once('(')) else {
        let kind = text.strip_suffix("EMPTY").unwrap_or_default().trim_end();
        return KINDS.iter().any(|known| known.eq_ignore_ascii_case(kind));
    };
    let kind = kind.trim();
    if !KINDS.iter().any(|known| known.eq_ignore_ascii_case(kind)) || !is_balanced(inner) {
        return false;
    }
    if kind.eq_ignore_ascii_case("GeometryCollection") {
        return parts(inner).iter().all(|part| is_wkt(part.trim()));
    }
    inner.split(',').all(|pair| {
        let pair = pair.trim_matches(|char: char| char == '(' || char == ')' || char == ' ');
        let numbers: Vec<_> = pair.split_whitespace().map(str::parse::<f64>).collect();
        matches!(numbers[..], [Ok(longitude), Ok(latitude)] if is_on_earth(longitude, latitude))
    })
}

fn is_balanced(text: &str) -> bool {
    let mut depth = 0_i32;
    let steps = text.chars().map(|char| match char {
        '(' => 1,
        ')' => -1,
        _ => 0,
    });
    steps.into_iter().all(|step| {
        depth += step;
        depth >= 0
    }) && depth == 0
}

/// Splits a text at its outermost commas.
fn parts(text: &str) -> Vec<&str> {
    let (mut depth, mut start, mut parts) = (0_i32, 0, Vec::new());
    for (at, char) in text.char_indices() {
        match char {
            '(' => depth += 1,
            ')' => depth -= 1,
            ',' if depth == 0 => {
                parts.push(&text[start..at]);
                start = at + 1;
            }
            _ => {}
        }
    }
    parts.push(&text[start..]);
    parts
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn geographies_are_kept_as_wkt() {
        for (text, expected) in [
            ("POINT(13.4 52.5)", Some("POINT(13.4 52.5)")),
            ("polygon((0 0, 0 1, 1 1, 0 0))", Some("polygon((0 0, 0 1, 1 1, 0 0))")),
            (
                "GEOMETRYCOLLECTION(POINT(1 2), LINESTRING(0 0, 1 1))",
                Some("GEOMETRYCOLLECTION(POINT(1 2), LINESTRING(0 0, 1 1))"),
            ),
            ("POINT EMPTY", Some("POINT EMPTY")),
            (r#"{"type":"Point","coordinates":[13.4,52.5]}"#, Some("POINT(13.4 52.5)")),
            (
                r#"{"type":"Polygon","coordinates":[[[0,0],[0,1],[1,1],[0,0]]]}"#,
                Some("POLYGON((0 0, 0 1, 1 1, 0 0))"),
            ),
            ("POINT(13.4 91)", None),
            ("POINT(1)", None),
            ("POINT(1 2", None),
            ("CIRCLE(1 2)", None),
            ("13.4", None),
            (r#"{"type":"Point","coordinates":[13.4,152.5]}"#, None),
        ] {
            assert_eq!(normal(text).as_deref(), expected, "{text}");
        }
    }
}
