//! Tables whose queries must filter by partition.

use std::collections::{BTreeMap, BTreeSet};

use super::names::TableName;
use super::table::Table;
use crate::status::Status;

/// Refuses a query without a filter on a table with `requirePartitionFilter`.
///
/// This also holds if the query reads the table through views. The check only looks for the
/// partitioning column among the words after the first WHERE. So a condition that excludes no
/// partition passes, too.
pub(super) fn check(query: &str, tables: &BTreeMap<TableName, Table>) -> Result<(), Status> {
    let conditions = conditions(query);
    let mut read = BTreeSet::new();
    find(query, tables, &mut read);
    for (name, table) in tables.iter().filter(|(name, _)| read.contains(name)) {
        let partitioning = table.resource.get("timePartitioning");
        let is_set = |of: Option<&serde_json::Value>| {
            of.and_then(|of| of.get("requirePartitionFilter")).is_some_and(|set| set == true)
        };
        let own = table.resource.get("requirePartitionFilter").is_some_and(|set| set == true);
        if !own && !is_set(partitioning) {
            continue;
        }
        let column = partitioning.and_then(|by| by.get("field")?.as_str());
        let columns = column.map_or(vec!["_partitiontime", "_partitiondate"], |name| vec![name]);
        let has_condition = columns.iter().any(|column| {
            let column = column.to_ascii_lowercase();
            // A view shows the partition under its own name, such as `day_of`.
            conditions
                .iter()
                .any(|word| word.starts_with(&column) || word.starts_with("partition_"))
        });
        if !has_condition {
            let columns: Vec<_> = columns.iter().map(|column| format!("'{column}'")).collect();
            return Err(Status::invalid(format!(
                "Cannot query over table '{}' without a filter over column(s) {} that can be used for \
                 partition elimination",
                [&name.0, &name.1, &name.2].map(String::as_str).join("."),
                columns.join(", ")
            )));
        }
    }
    Ok(())
}

/// Finds the tables and views that a query names, and those that their queries name.
fn find<'a>(
    query: &str,
    tables: &'a BTreeMap<TableName, Table>,
    read: &mut BTreeSet<&'a TableName>,
) {
    let words = words(query);
    for (name, table) in tables {
        if words.contains(&name.2.to_ascii_lowercase())
            && read.insert(name)
            && let Some(view) = table.view()
        {
            find(view, tables, read);
        }
    }
}

/// Returns all words after the first WHERE.
fn conditions(query: &str) -> BTreeSet<String> {
    let lower = query.to_ascii_lowercase();
    let first = lower.find("where").unwrap_or(lower.len());
    words(&lower[first..])
}

fn words(text: &str) -> BTreeSet<String> {
    let parts = text.split(|char: char| !char.is_alphanumeric() && char != '_');
    parts.filter(|word| !word.is_empty()).map(str::to_ascii_lowercase).collect()
}

#[cfg(test)]
mod tests {
    use serde_json::{Map, Value, json};
    use uuid::Uuid;

    use super::*;

    fn table(resource: Value) -> Table {
        let resource: Map<String, Value> = serde_json::from_value(resource).expect("a resource");
        Table { schema: <_>::default(), resource, id: Uuid::new_v4() }
    }

    fn name(id: &str) -> TableName {
        TableName("p".into(), "d".into(), id.into())
    }

    #[test]
    fn a_query_needs_a_condition_on_the_partition_of_each_table_that_it_reads() {
        let by_day = json!({ "type": "DAY", "field": "Day" });
        let tables = BTreeMap::from([
            (name("open"), table(json!({ "timePartitioning": by_day }))),
            (
                name("strict"),
                table(json!({ "timePartitioning": by_day, "requirePartitionFilter": true })),
            ),
            (
                name("old"),
                table(
                    json!({ "timePartitioning": { "type": "DAY", "requirePartitionFilter": true } }),
                ),
            ),
            (name("seen"), table(json!({ "view": { "query": "SELECT * FROM d.STRICT" } }))),
        ]);

        for (query, is_right) in [
            ("SELECT * FROM d.open", true),
            ("SELECT * FROM d.strict", false),
            ("SELECT day FROM d.strict", false),
            ("SELECT * FROM d.strict WHERE n > 1", false),
            ("SELECT * FROM d.strict where DAY = '2025-09-28'", true),
            ("SELECT * FROM `p.d.strict` WHERE n > 1 AND day > x", true),
            ("SELECT * FROM d.old WHERE day > x", false),
            ("SELECT * FROM d.old WHERE _PARTITIONTIME > x", true),
            ("SELECT * FROM d.old WHERE _PARTITIONDATE > x", true),
            ("SELECT * FROM d.seen", false),
            ("SELECT * FROM d.seen WHERE day > x", true),
            ("SELECT 'strictly' FROM d.open", true),
        ] {
            assert_eq!(check(query, &tables).is_ok(), is_right, "{query}");
        }
        let refused = check("SELECT * FROM d.old", &tables).expect_err("a refusal").message;
        let expected = "Cannot query over table 'p.d.old' without a filter over column(s) \
                        '_partitiontime', '_partitiondate' that can be used for partition elimination";
        assert_eq!(refused, expected);
    }
}
