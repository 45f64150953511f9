//! Fields of a table in the form of the REST API, and their comparison with the settings.

use serde_json::{Value, json};

use crate::write_api::Api;
use rows::column::{Column, Kind, Limit, Mode, Type};

/// Member of a field that holds its default.
const DEFAULT: &str = "defaultValueExpression";

fn is_required(field: &Value) -> bool {
    mode(field) == "REQUIRED"
}

fn has_name(field: &Value, name: &str) -> bool {
    text(field, "name").eq_ignore_ascii_case(name)
}

fn mode(field: &Value) -> &str {
    field["mode"].as_str().unwrap_or("NULLABLE")
}

/// Returns a member that is text, or an empty text if it is missing.
pub(super) fn text<'a>(of: &'a Value, member: &str) -> &'a str {
    of[member].as_str().unwrap_or_default()
}

/// Returns the elements of a list, or none if the value is not a list.
pub(super) fn array(value: &Value) -> &[Value] {
    value.as_array().map(Vec::as_slice).unwrap_or_default()
}

/// Comparison of a table's fields with the columns of the settings.
#[derive(Debug)]
pub(super) struct Comparison {
    api: Api,
    /// Differences that only a person can resolve, with both sides.
    pub differences: Vec<String>,
    /// Names of what the table lacks and what can be added.
    pub additions: Vec<String>,
}

impl Comparison {
    /// Starts a comparison. The API decides which columns may be left to their defaults.
    pub(super) fn new(api: Api) -> Self {
        Self { api, differences: Vec::new(), additions: Vec::new() }
    }

    /// Returns the fields of the table, extended by everything that `columns` have and the fields
    /// lack.
    ///
    /// The existing fields stay as they are, except for their tags. BigQuery keeps tags that a change
    /// leaves out, but requires a separate permission for tags that a change repeats.
    pub(super) fn merge(&mut self, fields: &[Value], columns: &[Column], at: &str) -> Vec<Value> {
        let mut merged: Vec<Value> = fields.iter().map(without_tags).collect();
        self.find_unfilled(fields, columns, at);
        for column in columns {
            match merged.iter_mut().find(|field| has_name(field, &column.name)) {
                Some(found) => self.merge_one(found, column, at),
                None => merged.push(self.add(column, at)),
            }
        }
        merged
    }

    /// Records required fields that no column fills.
    fn find_unfilled(&mut self, fields: &[Value], columns: &[Column], at: &str) {
        for field in fields.iter().filter(|field| is_required(field)) {
            if columns.iter().any(|column| has_name(field, &column.name)) {
                continue;
            }
            let why = match (self.api, field[DEFAULT].as_str()) {
                (Api::InsertAll, Some(_)) => continue,
                (Api::StorageWrite, Some(default)) => {
                    format!(" with the default {default}, which takes write: insert_all")
                }
                (_, None) => String::new(),
            };
            self.differences.push(format!(
                "column {at}{}: REQUIRED in the table{why}, and no column of the settings",
                text(field, "name")
            ));
        }
    }

    /// Returns the field of a column that the table lacks.
    fn add(&mut self, column: &Column, at: &str) -> Value {
        let path = format!("{at}{}", column.name);
        if column.mode == Mode::Required {
            self.differences.push(format!(
                "column {path}: a required column cannot be added to a table; must be nullable"
            ));
        }
        self.additions.push(format!("column {path}"));
        // BigQuery adds a column without its default first. A second change sets the default.
        field(&Column { default: None, ..column.clone() })
    }

    fn merge_one(&mut self, found: &mut Value, column: &Column, at: &str) {
        let path = format!("{at}{}", column.name);
        let (theirs, mode) = (type_name(found), mode(found));
        // A value that is always present fits a column where it may be missing.
        let is_stricter = column.mode == Mode::Required && mode == "NULLABLE";
        let fits = accepts(found, column.data_type);
        if !fits || (mode != mode_name(column.mode) && !is_stricter) {
            let (ours, our_mode) = (column.data_type, mode_name(column.mode));
            self.differences.push(format!(
                "column {path}: {ours} {our_mode} in the settings, {theirs} {mode} in the table"
            ));
        }
        match (&column.default, found[DEFAULT].as_str()) {
            (None, _) => {}
            (Some(ours), None) => {
                found[DEFAULT] = ours.as_str().into();
                self.additions.push(format!("the default of column {path}"));
            }
            // BigQuery may write the same default in other words. A different default does not keep
            // a row out.
            (Some(_), Some(_)) => {}
        }
        if column.kind() == Kind::Record {
            let inner = self.merge(array(&found["fields"]), &column.fields, &format!("{path}."));
            found["fields"] = inner.into();
        }
    }
}

/// Returns a field without its tags, at any depth.
fn without_tags(field: &Value) -> Value {
    let mut field = field.clone();
    if let Some(members) = field.as_object_mut() {
        members.remove("policyTags");
        members.remove("dataGovernanceTagsInfo");
    }
    if let Some(inner) = field.get_mut("fields").and_then(Value::as_array_mut) {
        inner.iter_mut().for_each(|field| *field = without_tags(field));
    }
    field
}

fn mode_name(mode: Mode) -> &'static str {
    match mode {
        Mode::Nullable => "NULLABLE",
        Mode::Required => "REQUIRED",
        Mode::Repeated => "REPEATED",
    }
}

pub(super) fn fields(columns: &[Column]) -> Vec<Value> {
    columns.iter().map(field).collect()
}

fn field(column: &Column) -> Value {
    let (name, mode) = (&column.name, mode_name(column.mode));
    let mut field = json!({ "name": name, "type": api_name(column.kind()), "mode": mode });
    match column.data_type.limit {
        Limit::None => {}
        Limit::Length(length) => field["maxLength"] = length.to_string().into(),
        Limit::Digits { precision, scale } => {
            field["precision"] = precision.to_string().into();
            field["scale"] = scale.to_string().into();
        }
    }
    if let Kind::Range(element) = column.kind() {
        field["rangeElementType"] = json!({ "type": api_name(element.kind()) });
    }
    if let Some(description) = &column.description {
        field["description"] = description.as_str().into();
    }
    if let Some(default) = &column.default {
        field[DEFAULT] = default.as_str().into();
    }
    if column.kind() == Kind::Record {
        field["fields"] = fields(&column.fields).into();
    }
    field
}

/// Returns the name of a type in the REST API. Some of these names are older than those of SQL.
fn api_name(kind: Kind) -> &'static str {
    match kind {
        Kind::Int64 => "INTEGER",
        Kind::Float64 => "FLOAT",
        Kind::Bool => "BOOLEAN",
        Kind::Range(_) => "RANGE",
        other => other.name(),
    }
}

/// Returns the SQL name of a type of the REST API.
fn sql_name(api_name: &str) -> &str {
    match api_name {
        "INTEGER" => "INT64",
        "FLOAT" => "FLOAT64",
        "BOOLEAN" => "BOOL",
        "STRUCT" => "RECORD",
        other => other,
    }
}

/// Returns the type of a field with its parameters, as in SQL.
fn type_name(field: &Value) -> String {
    let name = sql_name(text(field, "type"));
    match (name, parameter(field, "maxLength"), parameter(field, "precision")) {
        ("RANGE", ..) => format!("RANGE<{}>", text(&field["rangeElementType"], "type")),
        (_, Some(length), _) => format!("{name}({length})"),
        (_, _, Some(precision)) => match parameter(field, "scale").unwrap_or(0) {
            0 => format!("{name}({precision})"),
            scale => format!("{name}({precision},{scale})"),
        },
        _ => name.to_owned(),
    }
}

/// Returns a parameter of a type. The API writes it as text.
fn parameter(field: &Value, member: &str) -> Option<u64> {
    field[member].as_str()?.parse().ok()
}

/// Returns true if a field accepts each value of a type.
///
/// A type without parameters accepts any parameters of the field. If the field is narrower,
/// BigQuery names the rows that it refuses.
fn accepts(field: &Value, ours: Type) -> bool {
    let theirs = type_name(field);
    let kind = theirs.split('(').next().unwrap_or_default();
    if kind != ours.kind.name() {
        return false;
    }
    match ours.limit {
        Limit::None => true,
        Limit::Length(length) => parameter(field, "maxLength").is_none_or(|most| length <= most),
        Limit::Digits { precision, scale } => match parameter(field, "precision") {
            None => true,
            Some(most) => {
                let (behind, scale) = (parameter(field, "scale").unwrap_or(0), u64::from(scale));
                let whole = u64::from(precision).saturating_sub(scale);
                scale <= behind && whole <= most.saturating_sub(behind)
            }
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fields_stay_as_they_are_but_for_their_tags() {
        let tagged = |name: &str| {
            json!({ "name": name, "type": "STRING", "maxLength": "7", "policyTags": { "names": ["t"] },
            "dataGovernanceTagsInfo": { "dataGovernanceTags": { "k": "v" } } })
        };
        let untagged = |name: &str| json!({ "name": name, "type": "STRING", "maxLength": "7" });
        let record = |fields: Value| json!({ "name": "r", "type": "RECORD", "fields": fields });
        let table = [tagged("a"), record(json!([tagged("b")]))];
        let mut comparison = Comparison::new(Api::StorageWrite);

        let merged = comparison.merge(&table, &[Column::new("new", Kind::String)], "");

        let added = json!({ "name": "new", "type": "STRING", "mode": "NULLABLE" });
        assert_eq!(merged, [untagged("a"), record(json!([untagged("b")])), added]);
        assert_eq!(comparison.additions, ["column new"]);
        assert_eq!(comparison.differences, Vec::<String>::new());
    }

    #[test]
    fn a_field_with_parameters_takes_what_fits_in_it() {
        let field = |json: Value| {
            let mut field = json!({ "name": "c", "mode": "NULLABLE" });
            field.as_object_mut().unwrap().extend(json.as_object().unwrap().clone());
            field
        };
        let text = |most: &str| field(json!({ "type": "STRING", "maxLength": most }));
        let number = |precision: &str, scale: &str| {
            field(json!({ "type": "NUMERIC", "precision": precision, "scale": scale }))
        };
        let range = |of| field(json!({ "type": "RANGE", "rangeElementType": { "type": of } }));
        let plain = |name| field(json!({ "type": name }));
        for (field, ours, theirs) in [
            (text("10"), "STRING(10)", None),
            (text("10"), "STRING(9)", None),
            (text("10"), "STRING", None),
            (plain("STRING"), "STRING(11)", None),
            (text("10"), "STRING(11)", Some("STRING(10)")),
            (text("10"), "BYTES(10)", Some("STRING(10)")),
            (number("10", "2"), "NUMERIC(10,2)", None),
            (number("10", "2"), "NUMERIC(8)", None),
            (number("10", "2"), "NUMERIC(9)", Some("NUMERIC(10,2)")),
            (number("10", "2"), "NUMERIC(10,3)", Some("NUMERIC(10,2)")),
            (
                field(json!({ "type": "NUMERIC", "precision": "5" })),
                "NUMERIC(6)",
                Some("NUMERIC(5)"),
            ),
            (plain("BIGNUMERIC"), "NUMERIC", Some("BIGNUMERIC")),
            (range("DATE"), "RANGE<DATE>", None),
            (range("DATE"), "RANGE<DATETIME>", Some("RANGE<DATE>")),
            (plain("GEOGRAPHY"), "GEOGRAPHY", None),
            (plain("INTERVAL"), "GEOGRAPHY", Some("INTERVAL")),
        ] {
            let mut comparison = Comparison::new(Api::StorageWrite);
            let column = Column::new("c", ours.parse::<Type>().unwrap());

            comparison.merge(&[field], &[column], "");

            let expected = theirs.map(|theirs| {
                format!("column c: {ours} NULLABLE in the settings, {theirs} NULLABLE in the table")
            });
            assert_eq!(comparison.differences, expected.into_iter().collect::<Vec<_>>(), "{ours}");
        }
    }

    #[test]
    fn a_field_of_the_api_has_the_parameters_of_its_column() {
        for (of, expected) in [
            ("STRING(10)", json!({ "type": "STRING", "maxLength": "10" })),
            ("NUMERIC(10,2)", json!({ "type": "NUMERIC", "precision": "10", "scale": "2" })),
            ("BIGNUMERIC(38)", json!({ "type": "BIGNUMERIC", "precision": "38", "scale": "0" })),
            ("RANGE<DATE>", json!({ "type": "RANGE", "rangeElementType": { "type": "DATE" } })),
        ] {
            let column = Column::new("c", of.parse::<Type>().unwrap());

            let field = fields(&[column]).remove(0);

            for (member, value) in expected.as_object().unwrap() {
                assert_eq!(field[member], *value, "{of}");
            }
        }
    }

    #[test]
    fn required_fields_that_no_column_fills_are_named_at_any_depth() {
        let required = |name: &str| json!({ "name": name, "type": "STRING", "mode": "REQUIRED" });
        let record =
            json!({ "name": "r", "type": "RECORD", "fields": [required("in"), required("s")] });
        let columns =
            [Column::record("r", vec![Column::new("S", Kind::String).with_mode(Mode::Required)])];
        let mut comparison = Comparison::new(Api::InsertAll);

        comparison.merge(&[required("out"), record], &columns, "");

        let why = "REQUIRED in the table, and no column of the settings";
        assert_eq!(
            comparison.differences,
            [format!("column out: {why}"), format!("column r.in: {why}")]
        );
    }

    #[test]
    fn defaults_are_compared_and_set() {
        let table = |default: Option<&str>| {
            let mut field = json!({ "name": "n", "type": "INTEGER", "mode": "NULLABLE" });
            field["defaultValueExpression"] = default.map_or(Value::Null, Value::from);
            [field]
        };
        let columns = [Column { default: Some("7".into()), ..Column::new("n", Kind::Int64) }];
        let compared = |fields: &[Value]| {
            let mut comparison = Comparison::new(Api::StorageWrite);
            let merged = comparison.merge(fields, &columns, "");
            (merged, comparison.additions, comparison.differences)
        };
        let is_right = |fields: Vec<Value>, additions: &[&str]| {
            (fields, additions.iter().map(|text| (*text).to_owned()).collect(), vec![])
        };

        let seven = table(Some("7")).to_vec();
        assert_eq!(compared(&seven), is_right(seven.clone(), &[]));
        assert_eq!(compared(&table(None)), is_right(seven, &["the default of column n"]));
        let eight = table(Some("8")).to_vec();
        assert_eq!(compared(&eight), is_right(eight.clone(), &[]), "it stays as it is");
        let added = json!({ "name": "n", "type": "INTEGER", "mode": "NULLABLE" });
        // The default comes with the next check.
        assert_eq!(compared(&[]), is_right(vec![added], &["column n"]));
    }

    #[test]
    fn a_required_field_with_a_default_is_left_to_bigquery_where_the_api_can() {
        let field = json!({ "name": "n", "type": "INTEGER", "mode": "REQUIRED",
            "defaultValueExpression": "7" });
        let differences = |api| {
            let mut comparison = Comparison::new(api);
            comparison.merge(std::slice::from_ref(&field), &[], "");
            comparison.differences
        };

        assert_eq!(differences(Api::InsertAll), Vec::<String>::new());
        let why = "column n: REQUIRED in the table with the default 7, which takes write: insert_all, and \
                   no column of the settings";
        assert_eq!(differences(Api::StorageWrite), [why]);
    }
}
