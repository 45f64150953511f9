//! View without duplicates.

use serde_json::Value;
use sha2::{Digest as _, Sha256};

use crate::config::{INGESTION_TIME, Partitions, Unit};
use bigquery::TableName;
use rows::column::{Column, Kind};

/// Returns true if this module wrote the query for this table, and the query is unchanged. It may
/// be of any version and for any columns.
pub(crate) fn is_ours(query: &str, table: &TableName) -> bool {
    match query.split_once('\n') {
        Some((mark, text)) => {
            mark == mark_of(text) && text.contains(&format!(" FROM {}", quoted(table)))
        }
        None => is_first_form(query, table),
    }
}

/// Returns the columns that a query of this module shows.
pub(crate) fn column_names(query: &str) -> Vec<&str> {
    let text = query.split_once('\n').map_or(query, |(_, text)| text);
    let names = text.strip_prefix("SELECT ").and_then(|rest| rest.split_once(" FROM (SELECT "));
    let names = names.map(|(names, _)| names.split(", ")).into_iter().flatten();
    names.map(|name| name.trim_matches('`')).collect()
}

/// Returns the comment that identifies a query of this module. It holds a hash of the text.
fn mark_of(text: &str) -> String {
    let digest = Sha256::digest(text.as_bytes());
    let hash: String = digest.iter().take(8).map(|byte| format!("{byte:02x}")).collect();
    format!("-- Written by bigqueries, {hash}. With any change it is left alone.")
}

/// Returns true for a query of the first version, which wrote no such comment.
fn is_first_form(query: &str, table: &TableName) -> bool {
    let names = query.strip_prefix("SELECT ").and_then(|rest| rest.split_once(" FROM (SELECT "));
    let is_name = |name: &str| {
        let name = name.strip_prefix('`').and_then(|name| name.strip_suffix('`'));
        name.is_some_and(|name| !name.is_empty() && !name.contains('`'))
    };
    names.is_some_and(|(names, _)| {
        names.split(", ").all(is_name) && query == window(names, "", &quoted(table))
    })
}

fn quoted(TableName { project, dataset, table }: &TableName) -> String {
    format!("`{project}.{dataset}.{table}`")
}

/// Returns the query that shows these columns of the first row in each window.
fn window(names: &str, partition: &str, rows: &str) -> String {
    format!(
        "SELECT {names} FROM (SELECT {names}, ROW_NUMBER() OVER (PARTITION BY {partition}COALESCE(ingest_id, \
         message_id) ORDER BY publish_time, message_id) AS copy FROM {rows}) WHERE copy = 1"
    )
}

/// Partitions of a table, as a query names them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Partition {
    /// Name of the column in the view.
    name: String,
    /// Expression over the columns of the table; `None` for a column that the table itself has.
    expression: Option<String>,
}

impl Partition {
    /// Returns the partitions of the settings. Returns `None` if their column does not exist. Also
    /// returns `None` if another column already has the name that the view needs.
    #[must_use]
    pub fn of(by: &Partitions, columns: &[Column]) -> Option<Self> {
        let partition = if by.column == INGESTION_TIME {
            Self::of_ingestion(by.unit)
        } else {
            let column = columns.iter().find(|column| column.name == by.column)?;
            Self::new(&by.column, column.kind(), by.unit)
        };
        Some(partition).filter(|partition| partition.is_new(columns))
    }

    /// Returns the partitions of a table's resource, or `None` if it has none. Also returns `None`
    /// if another column already has the name that the view needs.
    pub(crate) fn of_table(table: &Value, columns: &[Column]) -> Option<Self> {
        let by = &table["timePartitioning"];
        let unit = match by["type"].as_str()? {
            "HOUR" => Unit::Hour,
            "MONTH" => Unit::Month,
            "YEAR" => Unit::Year,
            _ => Unit::Day,
        };
        let Some(column) = by["field"].as_str() else {
            let partition = Self::of_ingestion(unit);
            return Some(partition).filter(|partition| partition.is_new(columns));
        };
        let mut fields = table["schema"]["fields"].as_array()?.iter();
        let is_it = |field: &&Value| {
            field["name"].as_str().is_some_and(|name| name.eq_ignore_ascii_case(column))
        };
        let kind = match fields.find(is_it)?["type"].as_str()? {
            "DATE" => Kind::Date,
            "DATETIME" => Kind::Datetime,
            _ => Kind::Timestamp,
        };
        Some(Self::new(column, kind, unit)).filter(|partition| partition.is_new(columns))
    }

    fn of_ingestion(unit: Unit) -> Self {
        let expression = match unit {
            Unit::Day => "_PARTITIONDATE".to_owned(),
            unit => format!("TIMESTAMP_TRUNC({INGESTION_TIME}, {})", unit.name()),
        };
        let name = format!("partition_{}", unit.name().to_ascii_lowercase());
        Self { name, expression: Some(expression) }
    }

    fn new(column: &str, kind: Kind, unit: Unit) -> Self {
        let unit_name = unit.name();
        let expression = match (kind, unit) {
            (Kind::Date, Unit::Day) => return Self { name: column.into(), expression: None },
            (_, Unit::Day) => format!("DATE(`{column}`)"),
            (Kind::Date, _) => format!("DATE_TRUNC(`{column}`, {unit_name})"),
            (Kind::Datetime, _) => format!("DATETIME_TRUNC(`{column}`, {unit_name})"),
            (_, _) => format!("TIMESTAMP_TRUNC(`{column}`, {unit_name})"),
        };
        let name = format!("{column}_{}", unit_name.to_ascii_lowercase());
        Self { name, expression: Some(expression) }
    }

    /// Returns false if a column already has this name. The view would then have it twice.
    fn is_new(&self, columns: &[Column]) -> bool {
        let mut columns = columns.iter();
        self.expression.is_none()
            || !columns.any(|column| column.name.eq_ignore_ascii_case(&self.name))
    }
}

/// Returns the query of the view. It shows each `ingest_id` once in a partition: the row of the
/// earliest message. A row without an `ingest_id` is identified by its `message_id`.
///
/// The window is divided by the partition, too, under its column name in the view. So a filter on
/// that column reaches the table below the window, and the query reads only those partitions. The
/// first line is a comment with a hash of the others.
#[must_use]
pub fn query(table: &TableName, columns: &[Column], partition: Option<&Partition>) -> String {
    let mut names: Vec<_> = columns.iter().map(|column| format!("`{}`", column.name)).collect();
    let table = quoted(table);
    let (rows, by) = match partition {
        None => (table, String::new()),
        Some(Partition { name, expression: None }) => (table, format!("`{name}`, ")),
        Some(Partition { name, expression: Some(expression) }) => {
            let rows =
                format!("(SELECT {}, {expression} AS `{name}` FROM {table})", names.join(", "));
            names.push(format!("`{name}`"));
            (rows, format!("`{name}`, "))
        }
    };
    let text = window(&names.join(", "), &by, &rows);
    format!("{}\n{text}", mark_of(&text))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn columns() -> Vec<Column> {
        [("message_id", Kind::String), ("publish_time", Kind::Timestamp), ("day", Kind::Date)]
            .map(|(name, kind)| Column::new(name, kind))
            .to_vec()
    }

    fn partition(column: &str, unit: Unit) -> Option<Partition> {
        Partition::of(&Partitions { column: column.into(), unit, ..<_>::default() }, &columns())
    }

    fn query_of(partition: Option<Partition>) -> String {
        let (project, dataset, table) = ("p".into(), "d".into(), "t".into());
        query(&TableName { project, dataset, table }, &columns(), partition.as_ref())
    }

    #[test]
    fn the_window_is_parted_by_the_partition_under_its_name() {
        let query = query_of(partition("publish_time", Unit::Day));

        assert_eq!(
            query.lines().last().unwrap_or_default(),
            "SELECT `message_id`, `publish_time`, `day`, `publish_time_day` FROM (SELECT \
             `message_id`, `publish_time`, `day`, `publish_time_day`, ROW_NUMBER() OVER (PARTITION BY \
             `publish_time_day`, COALESCE(ingest_id, message_id) ORDER BY publish_time, message_id) AS \
             copy FROM (SELECT `message_id`, `publish_time`, `day`, DATE(`publish_time`) AS \
             `publish_time_day` FROM `p.d.t`)) WHERE copy = 1"
        );
    }

    #[test]
    fn each_kind_of_partition_has_its_expression() {
        for (column, unit, expected) in [
            (
                "publish_time",
                Unit::Hour,
                "TIMESTAMP_TRUNC(`publish_time`, HOUR) AS `publish_time_hour`",
            ),
            ("day", Unit::Month, "DATE_TRUNC(`day`, MONTH) AS `day_month`"),
            ("day", Unit::Day, "PARTITION BY `day`, COALESCE"),
        ] {
            let query = query_of(partition(column, unit));
            assert!(query.contains(expected), "{query}");
        }
        assert!(query_of(None).contains("PARTITION BY COALESCE"));
        assert_eq!(partition("never", Unit::Day), None);
    }

    #[test]
    fn partitions_are_read_off_a_table() {
        let fields = json!([{ "name": "at", "type": "DATETIME" }]);
        let table = |partitioning| json!({ "timePartitioning": partitioning, "schema": { "fields": fields } });
        for (partitioning, expected) in [
            (json!({ "type": "DAY" }), "_PARTITIONDATE AS `partition_day`"),
            (
                json!({ "type": "HOUR" }),
                "TIMESTAMP_TRUNC(_PARTITIONTIME, HOUR) AS `partition_hour`",
            ),
            (json!({ "type": "YEAR", "field": "AT" }), "DATETIME_TRUNC(`AT`, YEAR) AS `AT_year`"),
        ] {
            let query = query_of(Partition::of_table(&table(partitioning), &columns()));
            assert!(query.contains(expected), "{query}");
        }
        assert_eq!(Partition::of_table(&table(Value::Null), &columns()), None);
    }

    #[test]
    fn a_column_of_the_name_keeps_it() {
        let columns = [Column::new("at", Kind::Timestamp), Column::new("At_Day", Kind::String)];
        let by = Partitions { column: "at".into(), ..<_>::default() };

        assert_eq!(Partition::of(&by, &columns), None);
    }

    #[test]
    fn queries_of_all_versions_are_known_again_unless_they_were_changed() {
        let table = |table: &str| TableName {
            project: "p".into(),
            dataset: "d".into(),
            table: table.into(),
        };
        let first = "SELECT `n`, `m` FROM (SELECT `n`, `m`, ROW_NUMBER() OVER (PARTITION BY \
                     COALESCE(ingest_id, message_id) ORDER BY publish_time, message_id) AS copy FROM \
                     `p.d.t`) WHERE copy = 1";
        let by_day = query_of(partition("day", Unit::Day));
        for ours in [first.to_owned(), query_of(None), by_day] {
            assert!(is_ours(&ours, &table("t")), "{ours}");
            assert!(!is_ours(&ours, &table("u")), "{ours}");
            for edited in [
                ours.replace("copy = 1", "copy = 1 AND n > 0"),
                ours.replace("`p.d.t`", "`p.d.t` WHERE n > 0"),
                ours.replacen("SELECT `", "SELECT 1 AS x, `", 1),
                ours.replacen("SELECT `", "SELECT UPPER(`a`) AS `", 1),
                format!("{ours}\nLIMIT 1"),
            ] {
                assert!(!is_ours(&edited, &table("t")), "{edited}");
            }
        }
        assert!(!is_ours("SELECT * FROM `p.d.t`", &table("t")));
    }
}
