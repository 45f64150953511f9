//! Replaces query parameters, named or by position, with literals.

use serde_json::{Map, Value};

use super::super::schema::{Field, FieldType, Mode, kind_named, new_field};
use super::super::sqlite::literal;
use super::super::value;
use super::lex::{Lexeme, Token, syntax};
use crate::status::Status;

/// Parameters of a query in the form of the REST API.
#[derive(Debug, Default)]
pub(in super::super) struct Parameters(Vec<Parameter>);

#[derive(Debug)]
struct Parameter {
    name: String,
    field: Field,
    value: Value,
}

impl Parameters {
    /// Reads `queryParameters`.
    ///
    /// # Errors
    /// Fails for values that do not fit their types, and for types that this emulator lacks.
    pub(in super::super) fn read(given: &[Value]) -> Result<Self, Status> {
        let parameters = given.iter().map(|given| {
            let name = given["name"].as_str().unwrap_or_default().to_owned();
            let field = field("value", &given["parameterType"])?;
            let value = value_of(&field, &given["parameterValue"]);
            Ok(Parameter { name, field, value })
        });
        parameters.collect::<Result<_, Status>>().map(Self)
    }

    /// Replaces the parameters in a query by their values.
    ///
    /// # Errors
    /// Fails for parameters without a value.
    pub(in super::super) fn bind(&self, query: &str, tokens: &mut [Lexeme]) -> Result<(), Status> {
        let mut position = 0;
        for token in tokens {
            let Token::Parameter(name, path) = &token.token else { continue };
            let found = match name {
                Some(name) => self.0.iter().find(|one| one.name.eq_ignore_ascii_case(name)),
                None => self.0.get(position),
            };
            position += usize::from(name.is_none());
            let Some(parameter) = found else {
                let why = match name {
                    Some(name) => format!("Query parameter '{name}' not found"),
                    None => format!("Query parameter number {position} is not defined"),
                };
                return Err(syntax(query, token.at, &why));
            };
            let (field, value) = parameter.at(path).ok_or_else(|| {
                syntax(query, token.at, &format!("Field name {} does not exist", path.join(".")))
            })?;
            token.token = Token::Literal(written(field, value)?, field.clone());
        }
        Ok(())
    }
}

impl Parameter {
    /// Returns the value of a field in the parameter.
    fn at(&self, path: &[String]) -> Option<(&Field, &Value)> {
        let (mut field, mut value) = (&self.field, &self.value);
        for name in path {
            field = super::super::schema::find(&field.fields, name)?;
            value = value.get(&field.name).unwrap_or(&Value::Null);
        }
        Some((field, value))
    }
}

/// Converts a `QueryParameterType` to a field.
fn field(name: &str, given: &Value) -> Result<Field, Status> {
    let kind = given["type"].as_str().unwrap_or_default().to_ascii_uppercase();
    match kind.as_str() {
        "ARRAY" => Ok(Field { mode: Mode::Repeated, ..field(name, &given["arrayType"])? }),
        "STRUCT" | "RECORD" => {
            let fields = given["structTypes"].as_array().map(Vec::as_slice).unwrap_or_default();
            let fields = fields
                .iter()
                .map(|one| field(one["name"].as_str().unwrap_or_default(), &one["type"]));
            let fields = fields.collect::<Result<_, _>>()?;
            Ok(Field { fields, ..new_field(name, FieldType::Record) })
        }
        kind => kind_named(kind)
            .map(|kind| new_field(name, kind))
            .ok_or_else(|| Status::unimplemented(&format!("query parameters of type {kind}"))),
    }
}

/// Converts a `QueryParameterValue` to the form of rows.
fn value_of(field: &Field, given: &Value) -> Value {
    if field.mode == Mode::Repeated {
        let item = Field { mode: Mode::Nullable, ..field.clone() };
        let items = given["arrayValues"].as_array().map(Vec::as_slice).unwrap_or_default();
        return items.iter().map(|given| value_of(&item, given)).collect();
    }
    if field.kind == FieldType::Record {
        let values = &given["structValues"];
        let fields = field.fields.iter();
        let fields =
            fields.map(|field| (field.name.clone(), value_of(field, &values[&field.name])));
        return Value::Object(fields.collect());
    }
    given["value"].clone()
}

/// Writes the value in SQLite's SQL.
fn written(field: &Field, given: &Value) -> Result<String, Status> {
    let field = Field { name: "value".into(), ..field.clone() };
    let row = Map::from_iter([("value".to_owned(), given.clone())]);
    let stored = value::store_row(&[field], &row, false).map_err(|fault| {
        Status::invalid(format!("Invalid value of a query parameter: {}", fault.message))
    })?;
    use rusqlite::types::Value as Sql;
    Ok(match stored.into_iter().next().unwrap_or(Sql::Null) {
        Sql::Null => "NULL".into(),
        Sql::Integer(number) => number.to_string(),
        Sql::Real(number) => format!("{number:?}"),
        Sql::Text(text) => literal(&text),
        Sql::Blob(bytes) => literal(&String::from_utf8_lossy(&bytes)),
    })
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::super::lex::lex;
    use super::*;

    fn parameter(name: &str, kind: &str, value: &str) -> Value {
        json!({ "name": name, "parameterType": { "type": kind }, "parameterValue": { "value": value } })
    }

    fn bound(query: &str, given: &[Value]) -> Result<Vec<String>, String> {
        let parameters = Parameters::read(given).map_err(|status| status.message)?;
        let mut tokens = lex(query).expect("tokens");
        parameters.bind(query, &mut tokens).map_err(|status| status.message)?;
        let literals = tokens.into_iter().filter_map(|token| match token.token {
            Token::Literal(text, _) => Some(text),
            _ => None,
        });
        Ok(literals.collect())
    }

    #[test]
    fn parameters_are_found_by_name_or_by_position() {
        let given = [parameter("a", "INT64", "7"), parameter("b", "STRING", "it's")];
        let texts = |texts: &[&str]| Ok(texts.iter().map(|text| (*text).to_owned()).collect());

        assert_eq!(bound("SELECT @B, @a", &given), texts(&["'it''s'", "7"]));
        assert_eq!(bound("SELECT ?, ?", &given), texts(&["7", "'it''s'"]));
        let missing = bound("SELECT @c", &given);
        assert_eq!(missing, Err("Query parameter 'c' not found at [1:8]".into()));
        let beyond = bound("SELECT ?, ?, ?", &given);
        assert_eq!(beyond, Err("Query parameter number 3 is not defined at [1:14]".into()));
    }

    #[test]
    fn values_have_the_form_of_their_type_or_are_refused() {
        let one = |kind: &str, value: &str| bound("SELECT ?", &[parameter("", kind, value)]);
        let text = |text: &str| Ok(vec![text.to_owned()]);

        assert_eq!(one("BOOL", "true"), text("1"));
        assert_eq!(one("FLOAT64", "2"), text("2.0"));
        assert_eq!(one("NUMERIC", "1.50"), text("'1.5'"));
        assert_eq!(
            one("TIMESTAMP", "2025-09-28T22:53:17Z"),
            text("'2025-09-28 22:53:17.000000 UTC'")
        );
        let wrong =
            "Invalid value of a query parameter: Cannot convert value to integer (bad value): x";
        assert_eq!(one("INT64", "x"), Err(wrong.into()));
        assert!(one("GEOGRAPHY", "POINT(1 2)").is_err_and(|why| why.contains("GEOGRAPHY")));
        let null =
            json!({ "parameterType": { "type": "INT64" }, "parameterValue": { "value": null } });
        assert_eq!(bound("SELECT ?", &[null]), text("NULL"));
    }

    #[test]
    fn lists_and_structs_are_json_and_fields_of_structs_have_their_type() {
        let list = json!({ "name": "list",
            "parameterType": { "type": "ARRAY", "arrayType": { "type": "INT64" } },
            "parameterValue": { "arrayValues": [{ "value": "1" }, { "value": "2" }] } });
        let types = [json!({ "name": "n", "type": { "type": "INT64" } })];
        let record = json!({ "name": "r",
            "parameterType": { "type": "STRUCT", "structTypes": types },
            "parameterValue": { "structValues": { "n": { "value": "7" } } } });
        let given = [list, record];

        let texts = ["'[1,2]'", "'{\"n\":7}'", "7"].map(str::to_owned).to_vec();
        assert_eq!(bound("SELECT @list, @r, @r.n", &given), Ok(texts));
        let missing = "Field name x does not exist at [1:8]";
        assert_eq!(bound("SELECT @r.x", &given), Err(missing.into()));
    }
}
