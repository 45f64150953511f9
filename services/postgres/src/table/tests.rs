use rows::Rows as _;
use rows::column::{Kind, Mode};

use super::*;
use crate::config::{DayPartitions, Settings};

fn statements(change: impl FnOnce(&mut Settings)) -> Statements {
    let mut settings = Settings::default();
    settings.table.name = "readings".into();
    settings.table.columns = vec![Column::new("n", Kind::Int64)];
    change(&mut settings);
    Statements::new(&settings.table, &settings.rows().columns()).unwrap()
}

/// Returns the table as it is after its creation.
fn created(statements: &Statements) -> Found {
    let columns = statements.columns.iter().zip(&statements.types);
    Found {
        kind: if statements.table.partition_by_day.is_some() { "p" } else { "r" }.into(),
        partition_key: statements
            .table
            .partition_by_day
            .is_some()
            .then(|| "RANGE (publish_time)".into()),
        is_durable: true,
        columns: columns
            .map(|(column, sql_type)| FoundColumn {
                name: column.name.clone(),
                type_name: sql_type.name.clone(),
                is_required: statements.always_has(column) || column.mode == Mode::Required,
                has_default: false,
            })
            .collect(),
        keys: vec![statements.key().iter().map(|name| (*name).to_owned()).collect()],
    }
}

#[test]
fn a_table_that_was_just_created_fits() {
    let by_day = |settings: &mut Settings| {
        settings.table.partition_by_day = Some(DayPartitions::default());
    };
    for statements in [statements(|_| {}), statements(by_day)] {
        assert_eq!(compare(&statements, &created(&statements)), Ok(Vec::new()));
    }
}

#[test]
fn a_missing_column_is_added_if_the_settings_allow_it() {
    let with = statements(|_| {});
    let mut found = created(&with);
    found.columns.retain(|column| column.name != "n");

    assert_eq!(compare(&with, &found), Ok(vec![3]));
    let without = statements(|settings| settings.table.add_columns = false);
    let refused = compare(&without, &found).unwrap_err();
    assert!(refused.contains("the column n bigint, the table has none"), "{refused}");
}

#[test]
fn every_other_difference_is_told_with_both_sides() {
    let statements = statements(|_| {});
    let changed = |change: &dyn Fn(&mut Found)| {
        let mut found = created(&statements);
        change(&mut found);
        compare(&statements, &found).unwrap_err()
    };

    for (change, told) in [
        (
            &(|found: &mut Found| found.columns[3].type_name = "text".into())
                as &dyn Fn(&mut Found),
            "the column n is bigint in the settings, and text in the table",
        ),
        (
            &|found| found.columns[3].is_required = true,
            "the column n may be null in the settings, and is NOT NULL in the table",
        ),
        (
            &|found| {
                let name = "strange".to_owned();
                let type_name = "text".to_owned();
                let column = FoundColumn { name, type_name, is_required: true, has_default: false };
                found.columns.push(column);
            },
            "no column strange, and it is NOT NULL without a default",
        ),
        (&|found| found.kind = "v".into(), "it is a view"),
        (&|found| found.is_durable = false, "it is UNLOGGED"),
        (
            &|found| found.partition_key = Some("LIST (n)".into()),
            "the settings have no partitions, the table has partitions by LIST (n)",
        ),
        (&|found| found.keys.clear(), "a unique index on (ingest_id)"),
        (
            &|found| found.keys = vec![vec!["ingest_id".into(), "n".into()]],
            "a unique index on (ingest_id)",
        ),
    ] {
        let refused = changed(change);
        assert!(refused.contains(told), "{refused}");
    }
}

#[test]
fn columns_that_others_added_are_left_alone() {
    let statements = statements(|_| {});
    let mut found = created(&statements);
    let column = |name: &str, is_required| FoundColumn {
        name: name.into(),
        type_name: "text".into(),
        is_required,
        has_default: is_required,
    };
    found.columns.extend([column("note", false), column("at", true)]);

    assert_eq!(compare(&statements, &found), Ok(Vec::new()));
}
