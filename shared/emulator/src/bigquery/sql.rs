//! Translates BigQuery's SQL to SQLite's.
//!
//! There is no grammar: tokens are replaced one by one.
//!
//! - [`lex`] finds the tokens.
//! - [`source`] finds the tables.
//! - [`write`](mod@write) writes the query in SQLite's SQL.
//! - [`calls`] writes function calls.
//! - [`operand`] finds where an operand ends.
//! - [`whole`] finds the items whose values are shown.
//! - [`scopes`] has the SELECTs and their columns, and [`selects`] reads them.
//! - [`known`] names the functions.
//! - [`coerce`] finds texts that are compared with times.
//! - [`times`] writes the functions and operators of times.
//! - [`infer`] derives the types of computed columns.

mod calls;
mod coerce;
mod dates;
mod functions;
mod infer;
mod information;
mod known;
pub(super) mod lex;
mod numbers;
mod operand;
mod parameters;
mod scalar;
mod scopes;
mod selects;
pub(super) mod source;
mod strings;
mod times;
mod whole;
mod write;

pub(super) use dates::parse as parse_time;
pub(super) use functions::register;
pub(super) use parameters::Parameters;

use super::catalog::Catalog;
use super::names::TableName;
use super::schema::Field;
use crate::status::Status;
use lex::Lexeme;

/// Context that gives names in a query their meaning.
#[derive(Clone, Copy)]
pub(super) struct Scope<'a> {
    pub project: &'a str,
    /// Project and dataset of tables without a qualified name.
    pub dataset: Option<(&'a str, &'a str)>,
    pub catalog: &'a Catalog,
}

impl Scope<'_> {
    /// Returns the table of a name, which may leave out the project and the dataset.
    pub(super) fn full(&self, parts: &[String]) -> Option<TableName> {
        match parts {
            [project, dataset, table] => {
                Some(TableName(project.clone(), dataset.clone(), table.clone()))
            }
            [dataset, table] => {
                Some(TableName(self.project.into(), dataset.clone(), table.clone()))
            }
            [table] => {
                let (project, dataset) = self.dataset?;
                Some(TableName(project.into(), dataset.into(), table.clone()))
            }
            _ => None,
        }
    }
}

/// A query in SQLite's SQL.
#[derive(Debug)]
pub(super) struct Translated {
    pub text: String,
    /// Types of the columns, as far as they are known.
    pub columns: Columns,
    /// True if the query reads tables, and not only its own values.
    pub reads_tables: bool,
    /// Offsets in `text`, each with its offset in the query.
    places: Vec<(usize, usize)>,
}

/// Types of the items before the first star of a SELECT, and of those after the last star.
#[derive(Debug, Default, Clone)]
pub(super) struct Columns {
    pub before: Vec<Option<Field>>,
    pub after: Vec<Option<Field>>,
    /// Number of all columns, if it is known.
    pub count: Option<usize>,
}

impl Columns {
    /// Returns the type of column `at` of `count`.
    pub(super) fn at(&self, at: usize, count: usize) -> Option<&Field> {
        if self.count.is_some_and(|expected| expected != count) {
            return None;
        }
        let from_end = count.checked_sub(at + 1)?;
        let after = self.after.len().checked_sub(from_end + 1).and_then(|at| self.after.get(at));
        self.before.get(at).or(after).and_then(Option::as_ref)
    }
}

impl Translated {
    /// Returns the offset in the query for an offset in the translation.
    pub(super) fn source_of(&self, offset: usize) -> usize {
        let before = self.places.iter().take_while(|(out, _)| *out <= offset);
        before.last().map_or(0, |(_, source)| *source)
    }
}

/// Translates a query of one statement.
///
/// # Errors
/// Fails for missing tables, and for text that is not SQL.
pub(super) fn translate(query: &str, scope: &Scope<'_>) -> Result<Translated, Status> {
    translate_tokens(query, &lex::lex(query)?, scope)
}

/// Translates a query that is already split into tokens. `query` gives the positions in errors.
pub(super) fn translate_tokens(
    query: &str,
    tokens: &[Lexeme],
    scope: &Scope<'_>,
) -> Result<Translated, Status> {
    let sources = source::Sources::find(tokens, scope)?;
    let types = infer::Types::new(tokens, &sources);
    let columns = types.columns();
    if let Some(what) = &types.refused {
        return Err(Status::unimplemented(what));
    }
    let mut writer = write::Writer {
        query,
        tokens,
        sources: &sources,
        types: &types,
        intervals: <_>::default(),
        parts: <_>::default(),
        out: <_>::default(),
    };
    writer.range(0, tokens.len())?;
    let (text, places) = writer.out;
    let reads_tables = !sources.used.is_empty();
    Ok(Translated { text, columns, reads_tables, places })
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;
    use crate::bigquery::transaction::tests::with_table;

    /// Returns the row of a query, or the text of its error.
    fn row(query: &str) -> Result<Vec<Value>, String> {
        let fields =
            json!([{ "name": "n", "type": "INTEGER" }, { "name": "t", "type": "TIMESTAMP" }]);
        let (mut catalog, name) = with_table(fields);
        let stored = |number: i64, time: &str| {
            vec![rusqlite::types::Value::Integer(number), rusqlite::types::Value::Text(time.into())]
        };
        let rows = [
            stored(1, "2025-09-28 22:53:17.123456 UTC"),
            stored(2, "2024-02-29 00:00:00.000000 UTC"),
        ];
        catalog.insert(&name, rows).expect("an insert");
        let scope = Scope { project: "p", dataset: Some(("p", "d")), catalog: &catalog };
        let tokens = lex::lex(query).map_err(|status| status.message)?;
        let rows = catalog.select(query, &tokens, &scope).map_err(|status| status.message)?;
        let page = Value::Object(rows.page(&<_>::default()));
        let cells = page["rows"][0]["f"].as_array().cloned().unwrap_or_default();
        Ok(cells.into_iter().map(|mut cell| cell["v"].take()).collect())
    }

    fn value(expression: &str) -> Result<Value, String> {
        row(&format!("SELECT {expression}")).map(|mut row| row.remove(0))
    }

    fn expect(cases: &[(&str, Value)]) {
        for (expression, expected) in cases {
            assert_eq!(value(expression).as_ref(), Ok(expected), "{expression}");
        }
    }

    fn expect_refused(cases: &[(&str, &str)]) {
        for (expression, expected) in cases {
            let refused = value(expression).expect_err(expression);
            assert!(refused.contains(expected), "{expression}: {refused}");
        }
    }

    #[test]
    fn casts_convert_values_or_refuse_them() {
        expect(&[
            ("CAST('12' AS INT64)", json!("12")),
            ("CAST(2.5 AS INT64)", json!("3")),
            ("CAST(-2.5 AS INT64)", json!("-3")),
            ("CAST(TRUE AS STRING)", json!("true")),
            ("CAST(12 AS STRING)", json!("12")),
            ("CAST('x' AS BYTES)", json!("eA==")),
            ("CAST(CAST('ü' AS BYTES) AS STRING)", json!("ü")),
            ("CAST('1.50' AS NUMERIC)", json!("1.5")),
            ("CAST('2025-09-28' AS DATE)", json!("2025-09-28")),
            ("CAST(TIMESTAMP '2025-09-28 22:53:17+00' AS STRING)", json!("2025-09-28 22:53:17+00")),
            (
                "CAST(TIMESTAMP '2025-09-28 22:53:17.5+00' AS STRING)",
                json!("2025-09-28 22:53:17.5+00"),
            ),
            ("CAST(TIMESTAMP '2025-09-28 22:53:17+00' AS DATE)", json!("2025-09-28")),
            ("CAST(NULL AS INT64)", Value::Null),
            ("SAFE_CAST('x' AS INT64)", Value::Null),
            ("SAFE_CAST('2025-02-30' AS DATE)", Value::Null),
            ("SAFE_CAST(b'\\xff' AS STRING)", Value::Null),
        ]);
        expect_refused(&[
            ("CAST('x' AS INT64)", "Bad int64 value: x"),
            ("CAST('x' AS FLOAT64)", "Bad double value: x"),
            ("CAST(b'\\xff' AS STRING)", "Invalid cast of bytes to UTF8 string"),
        ]);
    }

    #[test]
    fn divisions_are_exact_or_refused() {
        expect(&[
            ("7 / 2", json!("3.5")),
            ("DIV(-7, 2)", json!("-3")),
            ("MOD(-7, 2)", json!("-1")),
            ("SAFE_DIVIDE(1, 0) IS NULL", json!("true")),
            ("SAFE_DIVIDE(1, 4)", json!("0.25")),
            ("1 + 6 / 3", json!("3.0")),
        ]);
        expect_refused(&[
            ("1 / 0", "division by zero"),
            ("DIV(1, 0)", "division by zero: 1 / 0"),
            ("MOD(1, 0)", "division by zero: 1 / 0"),
            ("9223372036854775807 + 1", "int64 overflow"),
        ]);
    }

    #[test]
    fn functions_of_texts_know_characters_and_nulls() {
        expect(&[
            ("SUBSTR('äöü', 2)", json!("öü")),
            ("SUBSTR('äöü', -2, 1)", json!("ö")),
            ("SUBSTR('äöü', 0, 1)", json!("ä")),
            ("UPPER('äß')", json!("ÄSS")),
            ("CONCAT('a', 1, 'b')", json!("a1b")),
            ("CONCAT('a', NULL)", Value::Null),
            ("STARTS_WITH('abc', 'ab')", json!("true")),
            ("ENDS_WITH('abc', 'ab')", json!("false")),
            ("CONTAINS_SUBSTR('ABC', 'b')", json!("true")),
            ("ARRAY_TO_STRING(['a', NULL, 'b'], '-')", json!("a-b")),
            ("SPLIT('a,b')", json!([{ "v": "a" }, { "v": "b" }])),
            ("JSON_VALUE('{\"a\":{\"b\":7}}', '$.a.b')", json!("7")),
            ("JSON_VALUE('{\"a\":{\"b\":7}}', '$.a')", Value::Null),
            ("JSON_QUERY('{\"a\":{\"b\":7}}', '$.a')", json!("{\"b\":7}")),
            ("JSON_VALUE('no json', '$.a')", Value::Null),
        ]);
        expect_refused(&[(
            "SUBSTR('abc', 1, -1)",
            "Third argument in SUBSTR() cannot be negative",
        )]);
    }

    #[test]
    fn times_are_moved_cut_and_compared_by_the_calendar() {
        expect(&[
            ("DATE_ADD(DATE '2024-01-31', INTERVAL 1 MONTH)", json!("2024-02-29")),
            ("DATE_SUB(DATE '2024-03-31', INTERVAL 1 MONTH)", json!("2024-02-29")),
            ("DATE_TRUNC(DATE '2025-09-28', WEEK)", json!("2025-09-28")),
            ("DATE_TRUNC(DATE '2025-09-28', ISOWEEK)", json!("2025-09-22")),
            ("DATE_TRUNC(DATE '2025-09-28', QUARTER)", json!("2025-07-01")),
            ("DATE_DIFF(DATE '2025-01-01', DATE '2024-12-31', YEAR)", json!("1")),
            (
                "TIMESTAMP_DIFF(TIMESTAMP '2025-01-01 00:30:00+00', TIMESTAMP '2024-12-31 23:31:00+00', HOUR)",
                json!("0"),
            ),
            ("UNIX_MILLIS(TIMESTAMP '2025-09-28 22:53:17.123456+00')", json!("1759099997123")),
            ("UNIX_SECONDS(TIMESTAMP '1969-12-31 23:59:59.5+00')", json!("-1")),
            ("TIMESTAMP_MILLIS(1759099997123)", json!("1759099997.123000")),
            ("EXTRACT(DAYOFWEEK FROM DATE '2025-09-28')", json!("1")),
            ("FORMAT_DATE('%d.%m.%y %j', DATE '2025-09-28')", json!("28.09.25 271")),
        ]);
        expect_refused(&[
            ("DATE_ADD(DATE '9999-12-31', INTERVAL 1 DAY)", "out of range"),
            ("DATE '2025-02-30'", "at [1:13]"),
        ]);
    }

    #[test]
    fn names_are_found_in_their_scope_and_tables_in_the_dataset() {
        assert_eq!(row("SELECT MAX(n) FROM t"), Ok(vec![json!("2")]));
        assert_eq!(row("SELECT x.n FROM d.t AS x WHERE x.t > '2025-01-01'"), Ok(vec![json!("1")]));
        let shown = Ok(vec![json!("1759099997.123456")]);
        assert_eq!(row("WITH w AS (SELECT t, n FROM `p.d.t`) SELECT t FROM w WHERE n = 1"), shown);
        let refused = |query: &str| row(query).expect_err(query);
        let missing = refused("SELECT * FROM other");
        assert_eq!(missing, "Not found: Table p:d.other was not found in location US");
        assert!(refused("SELECT n FROM t; SELECT n FROM t").contains("scripts"));
        assert!(refused("SELECT REGEXP_CONTAINS('a', 'a')").contains("REGEXP_CONTAINS"));
        assert!(refused("SELECT (1").contains("[1:8]"), "{}", refused("SELECT (1"));
    }

    #[test]
    fn an_error_has_the_line_and_the_column_of_the_query() {
        let refused = row("SELECT\n  n,\n  nothing\nFROM t").expect_err("a refusal");

        assert!(refused.ends_with("[3:3]"), "{refused}");
    }
}
