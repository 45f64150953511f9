//! The columns of a table, as settings and row types describe them.

mod data_type;
mod default;

use std::borrow::Cow;

pub use data_type::{Element, Kind, Limit, Type};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// A column, or a field of a record.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize, JsonSchema, Serialize)]
#[serde(default)]
pub struct Column {
    /// Its name: letters, digits and `_`, at most 300 characters.
    pub name: String,
    /// Its type, as SQL writes it: `STRING`, `STRING(10)`, `NUMERIC(10,2)`, `RANGE<DATE>`. A value that has
    /// more characters, bytes or digits than the parameters allow is refused.
    #[serde(rename = "type")]
    pub data_type: Type,
    /// Whether a value may be missing, must be there, or is a list.
    pub mode: Mode,
    /// Where the value comes from: a JSON pointer into the payload, `enrichment.NAME` or
    /// `attribute.NAME`; `/<name>` when left out. Fields of records come from the record.
    pub from: Option<pipeline::Place>,
    /// Expression for a value that is missing or `null`, as SQL writes it: a literal such as `0`, `'none'` or
    /// `DATE '2025-01-01'`, or a function such as `CURRENT_TIMESTAMP()`. A literal is filled in here. A function
    /// is left to BigQuery, which does so with `write: insert_all` alone. Not for lists, records and fields.
    pub default: Option<String>,
    /// What it holds, for people.
    pub description: Option<String>,
    /// The fields of a record.
    pub fields: Vec<Column>,
}

/// Whether a value may be missing, must be there, or is a list.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Deserialize, JsonSchema, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Mode {
    /// It may be missing.
    #[default]
    Nullable,
    /// A row without it is refused.
    Required,
    /// It is a list.
    Repeated,
}

impl Default for Column {
    fn default() -> Self {
        Self::new("", Kind::String)
    }
}

impl Column {
    /// A column that may be null.
    #[must_use]
    pub fn new(name: impl Into<String>, data_type: impl Into<Type>) -> Self {
        let (name, data_type) = (name.into(), data_type.into());
        Self {
            name,
            data_type,
            mode: Mode::Nullable,
            from: None,
            default: None,
            description: None,
            fields: Vec::new(),
        }
    }

    /// The same column in another mode.
    #[must_use]
    pub fn with_mode(self, mode: Mode) -> Self {
        Self { mode, ..self }
    }

    /// A record of these fields.
    #[must_use]
    pub fn record(name: impl Into<String>, fields: Vec<Self>) -> Self {
        Self { fields, ..Self::new(name, Kind::Record) }
    }
}

impl Column {
    /// Its type without the parameters.
    #[must_use]
    pub fn kind(&self) -> Kind {
        self.data_type.kind
    }

    /// The columns of one value: the fields of a record, the two ends of a range.
    pub(crate) fn parts(&self) -> Cow<'_, [Self]> {
        match self.kind() {
            Kind::Range(element) => {
                ["start", "end"].map(|end| Self::new(end, element.kind())).to_vec().into()
            }
            _ => self.fields.as_slice().into(),
        }
    }
}

/// Deepest nesting that BigQuery allows.
const MAX_DEPTH: usize = 15;
/// Longest name of a column.
const MAX_NAME: usize = 300;
/// Beginnings of names that BigQuery keeps for itself.
const RESERVED: [&str; 5] = ["_table_", "_file_", "_partition", "_row_timestamp", "__root__"];

/// What is wrong with a column's name, if anything.
pub(crate) fn name_fault(name: &str) -> Option<String> {
    let lower = name.to_ascii_lowercase();
    let starts_right = lower.starts_with(|char: char| char.is_ascii_alphabetic() || char == '_');
    let has_right_letters = lower.chars().all(|char| char.is_ascii_alphanumeric() || char == '_');
    if !starts_right || !has_right_letters || name.len() > MAX_NAME {
        let right = "must be letters, digits and `_`, not begin with a digit";
        return Some(format!("{right}, is `{name}`"));
    }
    let is_reserved = RESERVED.iter().any(|reserved| lower.starts_with(reserved));
    is_reserved.then(|| format!("`{name}` begins as BigQuery's own names do"))
}

/// What is wrong with columns, each with where it stands.
pub(crate) fn faults(columns: &[Column], at: &str, depth: usize) -> Vec<(String, String)> {
    let mut faults = Vec::new();
    let mut seen: Vec<String> = Vec::new();
    for (index, column) in columns.iter().enumerate() {
        let at = format!("{at}[{index}]");
        let mut add = |key: &str, right: String| faults.push((format!("{at}{key}"), right));
        let name = column.name.to_ascii_lowercase();
        if let Some(wrong) = name_fault(&column.name) {
            add(".name", wrong);
        } else if seen.contains(&name) {
            add(".name", format!("`{}` is there twice; BigQuery ignores case", column.name));
        }
        seen.push(name);
        if (column.kind() == Kind::Record) == column.fields.is_empty() {
            add(".fields", "must be there for RECORD, and only there".into());
        }
        if let Some(wrong) = column.default_fault(depth) {
            add(".default", wrong.into());
        }
        if depth > 0 && column.from.is_some() {
            add(".from", "must not be there: fields of a record come from the record".into());
        }
        if depth >= MAX_DEPTH {
            add("", format!("is nested deeper than {MAX_DEPTH} levels"));
        } else {
            faults.extend(self::faults(&column.fields, &format!("{at}.fields"), depth + 1));
        }
    }
    faults
}
