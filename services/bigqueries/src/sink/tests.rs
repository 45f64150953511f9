use pipeline::Sink as _;
use serde_json::json;

use super::*;
use crate::cell::Cell;
use crate::column::Kind;

fn columns() -> Arc<[Column]> {
    [Column::new("text", Kind::String)].into()
}

fn table() -> TableName {
    TableName { project: "p".into(), dataset: "d".into(), table: "t".into() }
}

/// A sink that never gets a client.
fn storage_write() -> Sink {
    let schema = Schema::new(&columns()).unwrap();
    let appender = Renewable::lazy(|| Box::pin(std::future::pending()));
    Sink { columns: columns(), table: table(), way: Way::StorageWrite { schema, appender } }
}

/// A sink that never gets a client.
fn insert_all() -> Sink {
    Sink::insert_all(Renewable::lazy(|| Box::pin(std::future::pending())), table(), columns())
}

fn text(length: usize) -> Record {
    Record { cells: vec![Cell::Text("x".repeat(length))], insert_id: String::new() }
}

/// A batch of rows of these lengths.
fn batch(sink: &Sink, lengths: impl IntoIterator<Item = usize>) -> Batch {
    let mut batch = sink.open(&());
    lengths.into_iter().for_each(|length| drop(sink.join(&mut batch, text(length), &mut ())));
    batch
}

/// How a row is taken that is the only one.
fn alone(sink: &Sink, length: usize) -> Result<usize, Join<Record>> {
    sink.join(&mut sink.open(&()), text(length), &mut ())
}

/// Bytes that a text takes beside its characters, as `batch::size` counts them.
const BESIDE: usize = 9;

#[test]
fn a_row_that_fits_no_request_is_refused() {
    for (sink, most) in [(storage_write(), 8_000_000), (insert_all(), 4_500_000)] {
        assert!(alone(&sink, most - BESIDE).is_ok_and(|bytes| bytes >= most - BESIDE));

        let Err(Join::Refused(error)) = alone(&sink, most - BESIDE + 1) else {
            panic!("{most} bytes are the most")
        };
        assert_eq!(error.recovery(), Recovery::Reject("row_too_large"));
    }
}

#[test]
fn a_request_takes_rows_up_to_its_limit() {
    for (sink, most) in [(storage_write(), 8_000_000), (insert_all(), 4_500_000)] {
        let bytes = alone(&sink, 1000).unwrap();
        let room = most - bytes - BESIDE;

        let fits = sink.join(&mut batch(&sink, [1000]), text(room), &mut ());
        let next = sink.join(&mut batch(&sink, [1000]), text(room + 1), &mut ());

        assert!(fits.is_ok_and(|bytes| bytes >= most));
        assert!(matches!(next, Err(Join::Full(_))), "{next:?}");
    }
}

#[test]
fn a_request_takes_rows_up_to_their_number() {
    for sink in [storage_write(), insert_all()] {
        let mut full = batch(&sink, std::iter::repeat_n(1, MAX_INSERT_ALL_ROWS - 1));

        assert!(sink.join(&mut full, text(1), &mut ()).is_ok());
        assert!(matches!(sink.join(&mut full, text(1), &mut ()), Err(Join::Full(_))));
    }
}

#[test]
fn a_request_is_parted_where_it_is_asked_to() {
    let lengths = |sealed: &Sealed| match sealed {
        Sealed::Arrow(rows) => rows.num_rows(),
        Sealed::Lines(rows) => rows.lines.len(),
        Sealed::Broken(why) => panic!("{why}"),
    };
    for sink in [storage_write(), insert_all()] {
        let sealed = sink.seal(batch(&sink, [1, 2, 3, 4, 5, 6, 7]), &mut ());

        let (first, second) = sink.split(&sealed, 2).unwrap();

        assert_eq!((lengths(&sealed), lengths(&first), lengths(&second)), (7, 2, 5));
    }
    assert!(storage_write().split(&Sealed::Broken("why".into()), 1).is_none());
}

#[tokio::test]
async fn what_cannot_be_sent_ends_the_service() {
    let sealed = |sink: Sink| sink.seal(batch(&sink, [1]), &mut ());
    let broken = || Sealed::Broken("wrong columns".into());
    for (sink, rows, why) in [
        (storage_write(), broken(), "wrong columns"),
        (insert_all(), broken(), "wrong columns"),
        (storage_write(), sealed(insert_all()), "rows of the other API"),
        (insert_all(), sealed(storage_write()), "rows of the other API"),
    ] {
        let error = sink.write(&rows, std::time::Duration::from_secs(30)).await.unwrap_err();

        assert_eq!((error.recovery(), error.detail().as_str()), (Recovery::Stop, why));
    }
    let foreign = insert_all().seal(batch(&storage_write(), [1]), &mut ());
    assert!(matches!(foreign, Sealed::Broken(_)));
}

#[test]
fn refused_rows_are_noted_by_their_place_in_the_batch() {
    let error = |index: i64| RowError::new().set_index(index).set_message(format!("bad {index}"));
    let mut refused = BTreeMap::new();

    assert!(note(&mut refused, &[3, 5, 9], &[error(2), error(0)]));
    assert_eq!(refused, [(3, "bad 0".into()), (9, "bad 2".into())].into());
    for none in [vec![], vec![error(3)], vec![error(-1)], vec![error(0)]] {
        assert!(!note(&mut refused, &[3, 5, 9], &none), "{none:?}");
    }
    assert!(note(&mut refused, &[3, 5, 9], &[error(7), error(1)]));
}

/// Three rows for `insertAll`.
fn insertion() -> Insertion {
    match insert_all().seal(batch(&insert_all(), [1, 2, 3]), &mut ()) {
        Sealed::Lines(rows) => rows,
        other => panic!("{other:?}"),
    }
}

fn row_error(index: i64, reason: &str) -> Value {
    let error = json!({ "reason": reason, "location": "n", "message": "bad value" });
    json!({ "index": index, "errors": [error, error] })
}

#[test]
fn rows_that_insert_all_refuses_are_noted_and_the_others_are_written() {
    let rows = insertion();

    assert_eq!(rows.note(&[0, 1, 2], &[row_error(0, "invalid"), row_error(2, "invalid")]), None);

    let why = Some("column n: bad value".to_owned());
    assert_eq!(*rows.settled(), [(0, why.clone()), (1, None), (2, why)].into());
    assert!(rows.left().is_empty());
}

#[test]
fn rows_that_failed_are_sent_again_and_no_others() {
    let rows = insertion();

    let again = rows.note(&[0, 1, 2], &[row_error(0, "invalid"), row_error(1, "stopped")]);
    assert_eq!((again.as_deref(), rows.left()), (Some("stopped: column n: bad value"), vec![1]));
    // The only row of the second request.
    assert_eq!(rows.note(&[1], &[row_error(0, "invalid")]), None);

    assert_eq!(rows.settled()[&1].as_deref(), Some("column n: bad value"));
    assert_eq!(rows.settled()[&2], None);
}

#[test]
fn a_row_that_is_named_without_a_reason_is_sent_again() {
    for error in [json!({ "index": 1 }), json!({ "index": 1, "errors": [] })] {
        let rows = insertion();

        assert!(rows.note(&[0, 1, 2], &[error]).is_some());

        assert_eq!(rows.left(), [1]);
    }
}

#[test]
fn an_error_that_names_no_row_settles_nothing() {
    let unnamed = json!({ "errors": [{ "reason": "invalid" }] });
    for error in [row_error(3, "invalid"), row_error(-1, "invalid"), unnamed] {
        let rows = insertion();

        assert!(rows.note(&[0, 1, 2], &[row_error(0, "invalid"), error]).is_some());

        assert_eq!(rows.left(), [0, 1, 2]);
    }
}

#[test]
fn what_is_settled_stays_so_when_a_request_is_parted() {
    let rows = insertion();
    rows.note(&[0, 1, 2], &[row_error(1, "stopped"), row_error(2, "invalid")]);

    let (first, second) = rows.split(1);

    assert!(first.left().is_empty());
    assert_eq!(second.left(), [0]);
    assert_eq!(second.settled()[&1].as_deref(), Some("column n: bad value"));
}
