//! Columns of a table, as settings and row types describe them.

mod data_type;
mod default;

use std::borrow::Cow;

pub use data_type::{Element, Kind, Limit, Type};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// Column of a table, or field of a record.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize, JsonSchema, Serialize)]
#[serde(default)]
pub struct Column {
    /// Name of the column: letters, digits and `_`, at most 300 characters.
    pub name: String,
    /// Type of the column, as in SQL: `STRING`, `STRING(10)`, `NUMERIC(10,2)`, `RANGE<DATE>`. A
    /// value with more characters, bytes or digits than the parameters allow is refused.
    #[serde(rename = "type")]
    pub data_type: Type,
    /// Mode of the column: `nullable` if a value may be missing, `required` if it must be present,
    /// `repeated` for a list.
    pub mode: Mode,
    /// Source of the value: a JSON pointer into the payload, `enrichment.NAME` or `attribute.NAME`.
    /// The default is `/<name>`. A field of a record always comes from the record.
    pub from: Option<message::FieldPath>,
    /// SQL expression for a value that is missing or `null`. It is a literal such as `0`, `'none'`
    /// or `DATE '2025-01-01'`, or a function such as `CURRENT_TIMESTAMP()`. The service fills in a
    /// literal itself. BigQuery fills in a function, but only with `write: insert_all`. Lists,
    /// records and fields of records cannot have a default.
    pub default: Option<String>,
    /// Description of the column, for people.
    pub description: Option<String>,
    /// Fields of a record.
    pub fields: Vec<Column>,
}

/// Mode of a column.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Deserialize, JsonSchema, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Mode {
    /// A value may be missing.
    #[default]
    Nullable,
    /// A row without a value is refused.
    Required,
    /// The value is a list.
    Repeated,
}

impl Default for Column {
    fn default() -> Self {
        Self::new("", Kind::String)
    }
}

impl Column {
    /// Creates a column that may be null.
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

    /// Returns the same column with another mode.
    #[must_use]
    pub fn with_mode(self, mode: Mode) -> Self {
        Self { mode, ..self }
    }

    /// Creates a record with these fields.
    #[must_use]
    pub fn record(name: impl Into<String>, fields: Vec<Self>) -> Self {
        Self { fields, ..Self::new(name, Kind::Record) }
    }
}

impl Column {
    /// Returns the type without its parameters.
    #[must_use]
    pub fn kind(&self) -> Kind {
        self.data_type.kind
    }

    /// Returns the columns that one value consists of: the fields of a record, or the two ends of a
    /// range.
    pub fn parts(&self) -> Cow<'_, [Self]> {
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
/// Maximum length of a column's name.
const MAX_NAME: usize = 300;
/// Beginnings of names that BigQuery reserves.
const RESERVED: [&str; 5] = ["_table_", "_file_", "_partition", "_row_timestamp", "__root__"];

/// Returns the fault of a column's name, if it has one.
pub fn name_fault(name: &str) -> Option<String> {
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

/// Returns the faults of columns, each with the key of its setting.
pub fn faults(columns: &[Column], at: &str, depth: usize) -> Vec<(String, String)> {
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
