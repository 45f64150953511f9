//! Tests of values.

use super::*;

fn field(json: Value) -> Field {
    let mut field = json!({ "name": "f" });
    field.as_object_mut().expect("an object").extend(json.as_object().expect("one").clone());
    serde_json::from_value(field).expect("a field")
}

fn normal_of(field: &Field, value: &Value) -> Result<Value, String> {
    normal(field, value, false, "f").map_err(|fault| fault.message)
}

#[test]
fn parameters_of_types_are_obeyed() {
    let text = field(json!({ "type": "STRING", "maxLength": "3" }));
    let bytes = field(json!({ "type": "BYTES", "maxLength": 2 }));
    let number = field(json!({ "type": "NUMERIC", "precision": "4", "scale": "2" }));

    assert_eq!(normal_of(&text, &json!("äöü")), Ok(json!("äöü")));
    assert!(normal_of(&text, &json!("abcd")).is_err_and(|why| why.contains("maximum length 3")));
    assert_eq!(normal_of(&bytes, &json!("aGk=")), Ok(json!("aGk=")));
    assert!(normal_of(&bytes, &json!("aGkh")).is_err());
    assert_eq!(normal_of(&number, &json!("99.994")), Ok(json!("99.99")));
    assert!(normal_of(&number, &json!("99.995")).is_err_and(|why| why.contains("not in range")));
}

#[test]
fn ranges_are_kept_as_text() {
    let range = field(json!({ "type": "RANGE", "rangeElementType": { "type": "DATE" } }));

    let both = json!({ "start": "2025-01-01", "end": "2025-02-01" });
    assert_eq!(normal_of(&range, &both), Ok(json!("[2025-01-01, 2025-02-01)")));
    let open = json!({ "start": null });
    assert_eq!(normal_of(&range, &open), Ok(json!("[UNBOUNDED, UNBOUNDED)")));
    for wrong in [
        json!({ "start": "2025-01-01", "end": "2025-01-01" }),
        json!({ "start": "x" }),
        json!("[2025-01-01, 2025-02-01)"),
    ] {
        assert!(normal_of(&range, &wrong).is_err(), "{wrong}");
    }
}

/// Checks the normal forms of values of a type. `None` stands for a refusal.
fn expect(kind: &str, cases: &[(Value, Option<Value>)]) {
    let field = field(json!({ "type": kind }));
    for (given, expected) in cases {
        assert_eq!(&normal_of(&field, given).ok(), expected, "{kind} {given}");
    }
}

#[test]
fn numbers_and_booleans_are_read_from_texts_too() {
    let many = "123456789012345678901234567890";
    expect(
        "INTEGER",
        &[
            (json!(7), Some(json!(7))),
            (json!("7"), Some(json!(7))),
            (json!("7.0"), Some(json!(7))),
            (json!("1e3"), Some(json!(1000))),
            (json!(i64::MIN), Some(json!(i64::MIN))),
            (json!("7.5"), None),
            (json!("9223372036854775808"), None),
            (json!("0x7"), None),
            (json!(""), None),
            (json!(true), None),
        ],
    );
    expect(
        "FLOAT",
        &[
            (json!("0.5"), Some(json!(0.5))),
            (json!(7), Some(json!(7.0))),
            (json!("inf"), Some(json!("inf"))),
            (json!("-Infinity"), Some(json!("-inf"))),
            (json!("x"), None),
        ],
    );
    expect(
        "BOOLEAN",
        &[
            (json!(true), Some(json!(true))),
            (json!("T"), Some(json!(true))),
            (json!("no"), Some(json!(false))),
            (json!(0), Some(json!(false))),
            (json!(2), None),
            (json!("x"), None),
        ],
    );
    expect(
        "NUMERIC",
        &[
            (json!("1.50"), Some(json!("1.5"))),
            (json!("-0.0"), Some(json!("0"))),
            (json!("1e2"), Some(json!("100"))),
            (json!("0.1234567890"), Some(json!("0.123456789"))),
            (json!("0.1234567891"), None),
            (json!(many), None),
            (json!("1 000"), None),
        ],
    );
    expect("BIGNUMERIC", &[(json!(many), Some(json!(many))), (json!("1e39"), None)]);
}

#[test]
fn times_are_read_in_several_forms_and_kept_in_one() {
    let kept = Some(json!("2025-09-28 22:53:17.120000 UTC"));
    expect(
        "TIMESTAMP",
        &[
            (json!("2025-09-28T22:53:17.12Z"), kept.clone()),
            (json!("2025-09-28 22:53:17.12 UTC"), kept.clone()),
            (json!("2025-09-28 22:53:17.12"), kept.clone()),
            (json!("2025/09/28 22:53:17.12"), kept.clone()),
            (json!("2025-09-29T00:53:17.12+02:00"), kept.clone()),
            (json!(1_759_099_997.12), kept),
            (json!("2025-09-28"), Some(json!("2025-09-28 00:00:00.000000 UTC"))),
            (json!("2025-09-28 22:53"), Some(json!("2025-09-28 22:53:00.000000 UTC"))),
            (json!(-1), Some(json!("1969-12-31 23:59:59.000000 UTC"))),
            (json!("0000-12-31 00:00:00"), None),
            (json!("9999-12-31T23:59:59-01:00"), None),
            (json!("2025-02-29 00:00:00"), None),
            (json!("28.9.2025"), None),
        ],
    );
    expect(
        "DATE",
        &[
            (json!("2024-02-29"), Some(json!("2024-02-29"))),
            (json!("2025-02-29"), None),
            (json!("2025-09-28 00:00:00"), None),
            (json!("0000-01-01"), None),
        ],
    );
    expect(
        "TIME",
        &[
            (json!("22:53:17"), Some(json!("22:53:17.000000"))),
            (json!("22:53:17.5"), Some(json!("22:53:17.500000"))),
            (json!("24:00:00"), None),
        ],
    );
    expect(
        "DATETIME",
        &[
            (json!("2025-09-28 22:53:17"), Some(json!("2025-09-28T22:53:17.000000"))),
            (json!("2025-09-28T22:53:17.5"), Some(json!("2025-09-28T22:53:17.500000"))),
            (json!("2025-09-28T22:53:17Z"), None),
        ],
    );
}

#[test]
fn bytes_json_and_texts_have_one_form() {
    expect(
        "BYTES",
        &[
            (json!("/+8="), Some(json!("/+8="))),
            (json!("_-8"), Some(json!("/+8="))),
            (json!("no base64!"), None),
        ],
    );
    expect("JSON", &[(json!("{ \"a\" : 1 }"), Some(json!("{\"a\":1}"))), (json!("x"), None)]);
    expect("STRING", &[(json!("x"), Some(json!("x"))), (json!(7), Some(json!("7")))]);
}

#[test]
fn modes_decide_about_null_and_lists() {
    let of = |mode: &str, value: Value| {
        normal_of(&field(json!({ "type": "STRING", "mode": mode })), &value)
    };

    assert_eq!(of("NULLABLE", Value::Null), Ok(Value::Null));
    assert_eq!(of("REPEATED", Value::Null), Ok(json!([])));
    assert_eq!(of("REPEATED", json!("one")), Ok(json!(["one"])));
    let refused = |mode: &str, value: Value| of(mode, value).expect_err("a refusal");
    assert_eq!(refused("REQUIRED", Value::Null), "Missing required field: f.");
    assert_eq!(refused("NULLABLE", json!(["x"])), "Array specified for non-repeated field: f.");
    let null = "Only optional fields can be set to NULL. Field: f; Value: NULL";
    assert_eq!(refused("REPEATED", json!(["x", null])), null);
    assert_eq!(refused("NULLABLE", json!({ "a": 1 })), "This field: f is not a record.");
}

#[test]
fn an_error_within_a_record_has_its_path_and_names_have_no_case() {
    let inner = json!([{ "name": "Number", "type": "INTEGER" }]);
    let record: Field = serde_json::from_value(json!({ "name": "Outer", "type": "RECORD",
        "mode": "REPEATED", "fields": inner }))
    .expect("a field");
    let store = |row: Value, ignore| {
        let row = row.as_object().expect("a row").clone();
        store_row(std::slice::from_ref(&record), &row, ignore)
    };

    let wrong = store(json!({ "outer": [{ "number": 1 }, { "number": "x" }] }), false);
    let unknown = store(json!({ "outer": [{ "number": 1, "Other": 2 }] }), false);
    let ignored = store(json!({ "outer": [{ "NUMBER": 1, "Other": 2 }], "more": 3 }), true);

    let wrong = wrong.expect_err("a refusal");
    assert_eq!(wrong.location, "Outer.Number");
    assert_eq!(wrong.message, "Cannot convert value to integer (bad value): x");
    let expected = ValueError {
        location: "outer.other".into(),
        message: "no such field: outer.other.".into(),
    };
    assert_eq!(unknown, Err(expected));
    assert_eq!(ignored, Ok(vec![Sql::Text("[{\"Number\":1}]".into())]));
}
