//! Tests of datasets and tables.

use super::*;
use crate::bigquery::transaction::tests::with_table;

fn schema(fields: Value) -> Schema {
    serde_json::from_value(json!({ "fields": fields })).expect("a schema")
}

fn etag(catalog: &Catalog, name: &TableName) -> String {
    let shown = catalog.show_table(name).expect("the table");
    shown["etag"].as_str().expect("an etag").to_owned()
}

fn labels(value: &str) -> Map<String, Value> {
    Map::from_iter([("labels".to_owned(), json!({ "a": value }))])
}

#[test]
fn a_patch_with_an_old_etag_changes_nothing() {
    let (mut catalog, name) = with_table(json!([{ "name": "a", "type": "INTEGER" }]));
    let first = etag(&catalog, &name);

    let patched = catalog.patch_table(&name, Some(&first), None, labels("1"));
    let second = etag(&catalog, &name);
    let refused = catalog.patch_table(&name, Some(&first), None, labels("2"));
    let shown = catalog.show_table(&name).expect("the table");
    let without = catalog.patch_table(&name, None, None, labels("3"));

    assert!(patched.is_ok() && without.is_ok() && first != second);
    let refused = refused.expect_err("a refusal");
    assert_eq!(refused.code, Code::FailedPrecondition);
    assert_eq!(refused.message, "Precondition check failed.");
    assert_eq!((&shown["labels"]["a"], etag(&catalog, &name) == second), (&json!("1"), false));
}

#[test]
fn a_patch_adds_columns_keeps_rows_and_removes_nothing() {
    let (mut catalog, name) = with_table(json!([{ "name": "a", "type": "INTEGER" }]));
    catalog.insert(&name, [vec![rusqlite::types::Value::Integer(1)]]).expect("an insert");
    let mut patch = |fields| catalog.patch_table(&name, None, Some(schema(fields)), Map::new());

    let required = json!([{ "name": "a", "type": "INTEGER" },
                          { "name": "b", "type": "STRING", "mode": "REQUIRED" }]);
    let required = patch(required).err().map(|one| one.code);
    let gone = patch(json!([{ "name": "b", "type": "STRING" }])).err().map(|one| one.code);
    let other = patch(json!([{ "name": "a", "type": "STRING" }])).err().map(|one| one.code);
    let added =
        patch(json!([{ "name": "b", "type": "STRING" }, { "name": "a", "type": "INTEGER" }]));

    let invalid = Some(Code::InvalidArgument);
    assert_eq!((required, gone, other, added.is_ok()), (invalid, invalid, invalid, true));
    let row = catalog.list_rows(&name, &<_>::default()).expect("rows")["rows"][0]["f"].clone();
    let row = [row[0]["v"].clone(), row[1]["v"].clone()];
    let names = &catalog.table(&name).expect("the table").schema.fields;
    let at = |id: &str| names.iter().position(|field| field.name == id).expect("a column");
    assert_eq!((&row[at("a")], &row[at("b")]), (&json!("1"), &Value::Null));
}

#[test]
fn a_dataset_with_tables_is_deleted_only_with_its_contents() {
    let (mut catalog, name) = with_table(json!([{ "name": "a", "type": "INTEGER" }]));
    let dataset = name.dataset();

    let refused = catalog.delete_dataset(&dataset, false).err().map(|one| one.message);
    let deleted = catalog.delete_dataset(&dataset, true);
    let again = catalog.delete_dataset(&dataset, true).err().map(|one| one.code);

    assert_eq!(refused.as_deref(), Some("Dataset p:d is still in use"));
    assert_eq!((deleted.is_ok(), again), (true, Some(Code::NotFound)));
    let missing = catalog.table(&name).err().map(|one| one.message);
    assert_eq!(missing.as_deref(), Some("Not found: Dataset p:d"));
}

#[test]
fn names_are_unique_and_of_the_right_characters() {
    let (mut catalog, name) = with_table(json!([{ "name": "a", "type": "INTEGER" }]));
    let mut create = |id: &str| {
        let name = TableName(name.0.clone(), name.1.clone(), id.to_owned());
        let fields = schema(json!([{ "name": "a", "type": "INTEGER" }]));
        catalog.create_table(&name, fields, Map::new()).err().map(|one| one.message)
    };

    assert_eq!(create("t").as_deref(), Some("Already Exists: Table p:d.t"));
    assert_eq!(create("t.x").as_deref(), Some("Invalid table ID \"t.x\"."));
    assert_eq!(create("").as_deref(), Some("Invalid table ID \"\"."));
    assert_eq!(create("t_ä-1 2"), None);
    let again = catalog.create_dataset(&name.dataset(), Map::new()).err();
    assert_eq!(again.map(|one| one.code), Some(Code::AlreadyExists));
}

#[test]
fn a_default_that_is_no_value_of_its_field_is_refused_at_every_depth() {
    let (mut catalog, name) = with_table(json!([{ "name": "a", "type": "INTEGER" }]));
    let other = TableName(name.0, name.1, "other".into());
    let field = |default: &str| json!({ "name": "n", "type": "INTEGER", "defaultValueExpression": default });
    let mut create = |fields| {
        let created = catalog.create_table(&other, schema(fields), Map::new());
        created.err().map(|one| one.message)
    };

    let top = create(json!([field("'x'")])).unwrap_or_default();
    let nested = json!([{ "name": "r", "type": "RECORD", "fields": [field("'x'")] }]);
    let nested = create(nested).unwrap_or_default();

    let start = "Invalid default value expression 'x' of field n:";
    assert!(top.starts_with(start) && nested.starts_with(start), "{top} {nested}");
    assert_eq!(create(json!([field("7")])), None);
}
