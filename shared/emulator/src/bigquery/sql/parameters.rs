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
