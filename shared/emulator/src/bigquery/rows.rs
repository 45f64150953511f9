//! Rows with their types, and the pages that answers show.

use std::borrow::Cow;

use rusqlite::types::Value as Sql;
use serde_json::{Map, Value, json};

use super::schema::{Field, FieldType, Mode, Schema};
use super::value;
use crate::status::Status;

/// Selection of rows and columns of a table or result, and their form.
#[derive(Debug, Clone, Default)]
pub(super) struct Page {
    pub start: usize,
    pub max_rows: Option<usize>,
    /// Selected columns by name; empty for all.
    pub selected: Vec<String>,
    pub times: Times,
}

/// Form of TIMESTAMP values in answers.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) enum Times {
    /// Seconds with six digits after the point.
    #[default]
    Seconds,
    /// Whole microseconds: `formatOptions.useInt64Timestamp`.
    Micros,
}

/// Rows with their types.
#[derive(Debug, Clone, Default)]
pub(super) struct Rows {
    pub fields: Vec<Field>,
    pub rows: Vec<Vec<Sql>>,
}

impl Page {
    /// Reads the parameters of a URL.
    pub(super) fn of(parameters: &std::collections::HashMap<String, String>) -> Self {
        let number = |key: &str| parameters.get(key).and_then(|value| value.parse().ok());
        let is_micros = parameters.get("formatOptions.useInt64Timestamp");
        let is_micros = is_micros.is_some_and(|value| value.eq_ignore_ascii_case("true"));
        let selected = parameters.get("selectedFields").map(String::as_str).unwrap_or_default();
        Self {
            start: number("pageToken").or_else(|| number("startIndex")).unwrap_or(0),
            max_rows: number("maxResults"),
            selected: selected.split(',').filter(|name| !name.is_empty()).map(Into::into).collect(),
            times: if is_micros { Times::Micros } else { Times::Seconds },
        }
    }
}

impl Rows {
    /// Returns a page in the form of the REST API. Its token is the index of the next row.
    pub(super) fn page(&self, page: &Page) -> Map<String, Value> {
        let most = page.max_rows.unwrap_or(usize::MAX);
        let shown = self.rows.iter().skip(page.start).take(most);
        let rows: Vec<_> = shown.map(|row| cells(&self.fields, row, page.times)).collect();
        let next = page.start + rows.len();
        let mut answer = Map::new();
        answer.insert("totalRows".into(), self.rows.len().to_string().into());
        if next < self.rows.len() {
            answer.insert("pageToken".into(), next.to_string().into());
        }
        if most > 0 {
            answer.insert("rows".into(), rows.into());
        }
        answer
    }

    /// Returns the columns of these names, or all columns if there are no names.
    pub(super) fn only(&self, names: &[String]) -> Result<Cow<'_, Self>, Status> {
        if names.is_empty() {
            return Ok(Cow::Borrowed(self));
        }
        let fields = selected(&Schema { fields: self.fields.clone() }, names)?;
        let place = |field: &Field| self.fields.iter().position(|one| one.name == field.name);
        let places: Vec<usize> = fields.iter().filter_map(place).collect();
        let row = |row: &Vec<Sql>| places.iter().map(|at| row[*at].clone()).collect();
        let rows = self.rows.iter().map(row).collect();
        Ok(Cow::Owned(Self { fields, rows }))
    }

    /// Returns a row in the form of `insertAll`.
    pub(super) fn row(&self, index: usize) -> Map<String, Value> {
        let cells = self.fields.iter().zip(&self.rows[index]);
        cells.map(|(field, stored)| (field.name.clone(), to_json(field, stored))).collect()
    }
}

/// Returns the cells of a row for an answer.
pub(super) fn cells(fields: &[Field], row: &[Sql], times: Times) -> Value {
    let cells = fields.iter().zip(row).map(|(field, stored)| {
        let mut cell = value::cell(field, stored);
        if times == Times::Micros {
            whole_micros(field, &mut cell["v"], field.mode);
        }
        cell
    });
    json!({ "f": cells.collect::<Vec<_>>() })
}

/// Converts seconds with six digits to microseconds in every TIMESTAMP.
fn whole_micros(field: &Field, value: &mut Value, mode: Mode) {
    match (mode, field.kind, value) {
        (Mode::Repeated, _, Value::Array(items)) => {
            for item in items {
                whole_micros(field, &mut item["v"], Mode::Nullable);
            }
        }
        (_, FieldType::Record, value) => {
            let cells = value.get_mut("f").and_then(Value::as_array_mut);
            for (inner, cell) in field.fields.iter().zip(cells.into_iter().flatten()) {
                whole_micros(inner, &mut cell["v"], inner.mode);
            }
        }
        (_, FieldType::Timestamp, Value::String(text)) => {
            text.retain(|char| char != '.');
            if let Ok(micros) = text.parse::<i64>() {
                *text = micros.to_string();
            }
        }
        _ => {}
    }
}

/// Converts a stored value to the JSON of a row.
pub(super) fn to_json(field: &Field, stored: &Sql) -> Value {
    match stored {
        Sql::Null => Value::Null,
        Sql::Integer(number) if field.kind == FieldType::Boolean => (*number != 0).into(),
        Sql::Integer(number) => (*number).into(),
        Sql::Real(number) if matches!(field.kind, FieldType::Numeric | FieldType::Bignumeric) => {
            value::exact_number(*number)
        }
        Sql::Real(number) if number.is_finite() => (*number).into(),
        Sql::Real(number) => number.to_string().into(),
        Sql::Text(text) if field.mode == Mode::Repeated || field.kind == FieldType::Record => {
            serde_json::from_str(text).unwrap_or(Value::Null)
        }
        Sql::Text(text) => text.clone().into(),
        Sql::Blob(bytes) => String::from_utf8_lossy(bytes).into(),
    }
}

/// Returns the fields of these names, or all fields if there are no names.
pub(super) fn selected(schema: &Schema, names: &[String]) -> Result<Vec<Field>, Status> {
    if names.is_empty() {
        return Ok(schema.fields.clone());
    }
    let fields = names.iter().map(|name| {
        let field = schema.find(name).cloned();
        field.ok_or_else(|| Status::invalid(format!("No such field: {name}")))
    });
    fields.collect()
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;

    use super::super::schema::new_field;
    use super::*;

    fn rows(count: i64) -> Rows {
        let fields = vec![new_field("n", FieldType::Integer), new_field("s", FieldType::String)];
        let row = |number: i64| vec![Sql::Integer(number), Sql::Text(format!("t{number}"))];
        Rows { fields, rows: (0..count).map(row).collect() }
    }

    fn page(parameters: &[(&str, &str)]) -> Page {
        let pairs = parameters.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned()));
        Page::of(&HashMap::from_iter(pairs))
    }

    #[test]
    fn pages_have_every_row_once_and_end_without_a_token() {
        let rows = rows(5);
        let (mut found, mut token) = (Vec::new(), "0".to_owned());

        loop {
            let page = rows.page(&page(&[("maxResults", "2"), ("pageToken", &token)]));
            assert_eq!(page["totalRows"], "5");
            let shown = page["rows"].as_array().expect("rows").iter();
            found.extend(shown.map(|row| row["f"][0]["v"].as_str().expect("a value").to_owned()));
            let Some(next) = page.get("pageToken") else { break };
            token = next.as_str().expect("a token").to_owned();
        }

        assert_eq!(found, ["0", "1", "2", "3", "4"]);
        let none = rows.page(&page(&[("maxResults", "0")]));
        assert_eq!((none.get("rows"), &none["pageToken"]), (None, &json!("0")));
        // A token has precedence over a start.
        let start = rows.page(&page(&[("startIndex", "1"), ("pageToken", "4")]));
        assert_eq!(start["rows"].as_array().expect("rows").len(), 1);
    }

    #[test]
    fn selected_columns_come_in_the_order_of_their_names() {
        let rows = rows(1);
        let page = page(&[("selectedFields", "s,,n")]);

        let picked = rows.only(&page.selected).expect("columns");

        assert_eq!(picked.rows, [[Sql::Text("t0".into()), Sql::Integer(0)]]);
        assert_eq!(rows.only(&[]).expect("columns").rows, rows.rows);
        let missing = rows.only(&["x".into()]).expect_err("a refusal");
        assert_eq!(missing.message, "No such field: x");
    }

    #[test]
    fn times_are_whole_microseconds_at_every_depth_if_asked_for() {
        let time = new_field("t", FieldType::Timestamp);
        let list = Field { mode: Mode::Repeated, ..new_field("l", FieldType::Timestamp) };
        let record = Field { fields: vec![time.clone()], ..new_field("r", FieldType::Record) };
        let text = "2025-09-28 22:53:17.123456 UTC";
        let row = vec![
            Sql::Text(text.into()),
            Sql::Text(json!([text]).to_string()),
            Sql::Text(json!({ "t": text }).to_string()),
            Sql::Null,
        ];
        let rows = Rows { fields: vec![time.clone(), list, record, time], rows: vec![row] };
        let values = |micros: &str| {
            let shown = rows.page(&page(&[("formatOptions.useInt64Timestamp", micros)]));
            let cell = |at: usize| shown["rows"][0]["f"][at]["v"].clone();
            [cell(0), cell(1)[0]["v"].clone(), cell(2)["f"][0]["v"].clone(), cell(3)]
        };

        let micros = json!("1759099997123456");
        assert_eq!(values("True"), [micros.clone(), micros.clone(), micros, Value::Null]);
        let seconds = json!("1759099997.123456");
        assert_eq!(values("false"), [seconds.clone(), seconds.clone(), seconds, Value::Null]);
    }

    #[test]
    fn stored_values_become_json_of_their_type() {
        let of = |kind, stored: &Sql| to_json(&new_field("f", kind), stored);

        assert_eq!(of(FieldType::Boolean, &Sql::Integer(0)), json!(false));
        assert_eq!(of(FieldType::Integer, &Sql::Integer(i64::MIN)), json!(i64::MIN));
        assert_eq!(of(FieldType::Float, &Sql::Real(0.5)), json!(0.5));
        assert_eq!(of(FieldType::Float, &Sql::Real(f64::INFINITY)), json!("inf"));
        assert_eq!(of(FieldType::Numeric, &Sql::Real(0.1)), json!("0.1"));
        assert_eq!(of(FieldType::Record, &Sql::Text("{\"a\":1}".into())), json!({ "a": 1 }));
        assert_eq!(of(FieldType::String, &Sql::Text("{\"a\":1}".into())), json!("{\"a\":1}"));
        assert_eq!(of(FieldType::String, &Sql::Null), Value::Null);
    }
}
