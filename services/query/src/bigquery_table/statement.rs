//! Query of a page, and its parameters.

use bigquery::TableName;
use serde_json::{Value, json};
use time::format_description::FormatItem;
use time::macros::format_description;
use time::{OffsetDateTime, UtcOffset};

use super::row::COPY;
use crate::parameters::{Parameters, Place};

const MOMENT: &[FormatItem<'_>] =
    format_description!("[year]-[month]-[day] [hour]:[minute]:[second].[subsecond digits:6]+00:00");
/// First moment that a TIMESTAMP holds. The last one is in the year 9999, as in RFC 3339.
const FIRST_MICROS: i64 = -62_135_596_800_000_000;
/// Last moment that a TIMESTAMP holds.
const LAST_MICROS: i64 = 253_402_300_799_999_999;
/// Id of a row. bigqueries leaves out a missing `ingest_id`, and its view has the same rule.
const ID: &str = "COALESCE(`ingest_id`, `message_id`)";

/// Query with the parameters in the form of the REST API.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Statement {
    pub sql: String,
    pub parameters: Vec<Value>,
}

/// Returns the query of a page.
///
/// Copies of a row are removed by their id, among the rows of the source and the time. The place of an
/// earlier page is compared afterwards: a copy with a later time must not be on a later page again.
///
/// The query always names `publish_time`. So BigQuery reads only the partitions of the time, and a
/// table that requires a filter by its partitions can be asked.
pub(super) fn statement(table: &TableName, source_column: &str, asked: &Parameters) -> Statement {
    let mut parameters = Vec::new();
    let mut bind = |name: &str, kind: &str, value: String| {
        parameters.push(json!({
            "name": name,
            "parameterType": { "type": kind },
            "parameterValue": { "value": value },
        }));
    };
    let mut rows = String::from("`publish_time` >= @start_time");
    let start = asked.start_time.map_or(FIRST_MICROS, micros).max(FIRST_MICROS);
    // No row is later than the last moment of the type.
    let is_empty = start > LAST_MICROS;
    bind("start_time", "TIMESTAMP", moment(start.min(LAST_MICROS)));
    if let Some(end) = asked.end_time.map(micros).filter(|end| *end <= LAST_MICROS) {
        rows.push_str(" AND `publish_time` < @end_time");
        bind("end_time", "TIMESTAMP", moment(end.max(FIRST_MICROS)));
    }
    if let Some(id) = &asked.source_id {
        rows.push_str(&format!(" AND `{source_column}` = @source_id"));
        bind("source_id", "STRING", id.clone());
    }
    let mut page = format!("`{COPY}` = 1");
    if let Some(Place { micros, ingest_id }) = &asked.next {
        page.push_str(&format!(
            " AND (`publish_time` > @next_time OR `publish_time` = @next_time AND {ID} > @next_id)"
        ));
        bind("next_time", "TIMESTAMP", moment(*micros));
        bind("next_id", "STRING", ingest_id.clone());
    }
    let limit = if is_empty { 0 } else { asked.limit + 1 };
    bind("limit", "INT64", limit.to_string());
    bind("offset", "INT64", asked.offset.to_string());
    let sql = format!(
        "SELECT * FROM (SELECT *, ROW_NUMBER() OVER (PARTITION BY {ID} ORDER BY `publish_time`, \
         `message_id`) AS `{COPY}` FROM `{}` WHERE {rows}) WHERE {page} \
         ORDER BY `publish_time`, {ID} LIMIT @limit OFFSET @offset",
        table_name(table)
    );
    Statement { sql, parameters }
}

fn table_name(TableName { project, dataset, table }: &TableName) -> String {
    format!("{project}.{dataset}.{table}")
}

/// Returns a time in whole microseconds. The offset of RFC 3339 can lead into a neighbouring year.
fn micros(time: OffsetDateTime) -> i64 {
    i64::try_from(time.unix_timestamp_nanos().div_euclid(1_000)).unwrap_or(i64::MAX)
}

/// Writes a time that a TIMESTAMP holds.
fn moment(micros: i64) -> String {
    let time = OffsetDateTime::from_unix_timestamp_nanos(i128::from(micros) * 1_000);
    let time = time.unwrap_or(OffsetDateTime::UNIX_EPOCH).to_offset(UtcOffset::UTC);
    // A time within the type's bounds has a form.
    time.format(MOMENT).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use time::format_description::well_known::Rfc3339;

    use super::*;

    fn table() -> TableName {
        TableName { project: "p".into(), dataset: "d".into(), table: "t".into() }
    }

    fn value<'a>(statement: &'a Statement, name: &str) -> Option<&'a str> {
        let mut parameters = statement.parameters.iter();
        let found = parameters.find(|parameter| parameter["name"] == name);
        found.and_then(|found| found["parameterValue"]["value"].as_str())
    }

    #[test]
    fn no_value_is_in_the_text_of_a_query() {
        let hostile = "x'; DROP TABLE readings; --`\\";
        let asked = Parameters {
            source_id: Some(hostile.into()),
            next: Some(Place { micros: 7, ingest_id: hostile.into() }),
            ..Parameters::default()
        };

        let statement = statement(&table(), "device_id", &asked);

        assert!(!statement.sql.contains("DROP"), "{}", statement.sql);
        assert_eq!(value(&statement, "source_id"), Some(hostile));
        assert_eq!(value(&statement, "next_id"), Some(hostile));
        assert_eq!(value(&statement, "next_time"), Some("1970-01-01 00:00:00.000007+00:00"));
        assert_eq!(value(&statement, "limit"), Some("101"));
    }

    #[test]
    fn times_beyond_those_of_the_type_find_the_same_rows() {
        let of = |start: &str, end: &str| {
            let read = |time| OffsetDateTime::parse(time, &Rfc3339).ok();
            let (start_time, end_time) = (read(start), read(end));
            statement(&table(), "s", &Parameters { start_time, end_time, ..<_>::default() })
        };

        let all = of("0000-01-01T00:00:00Z", "9999-12-31T23:59:59-23:59");
        assert_eq!(value(&all, "start_time"), Some("0001-01-01 00:00:00.000000+00:00"));
        assert_eq!(value(&all, "end_time"), None);
        let none = of("9999-12-31T23:59:59-23:58", "9999-12-31T23:59:59-23:59");
        assert_eq!(value(&none, "limit"), Some("0"));
        let early = of("0000-01-01T00:00:00Z", "0000-01-02T00:00:00Z");
        assert_eq!(value(&early, "end_time"), Some("0001-01-01 00:00:00.000000+00:00"));
    }

    #[test]
    fn a_query_always_filters_by_time() {
        let statement = statement(&table(), "s", &Parameters::default());

        assert!(statement.sql.contains("WHERE `publish_time` >= @start_time)"));
        assert_eq!(value(&statement, "start_time"), Some("0001-01-01 00:00:00.000000+00:00"));
    }
}
