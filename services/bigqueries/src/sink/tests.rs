use std::sync::Arc;

use pipeline::Sink as _;

use super::*;
use crate::config;
use bigquery::TableName;
use rows::cell::Cell;
use rows::column::Kind;

fn columns() -> Arc<[Column]> {
    [Column::new("text", Kind::String)].into()
}

/// Creates a table whose client is never ready.
fn table() -> Table {
    let name = TableName { project: "p".into(), dataset: "d".into(), table: "t".into() };
    let client = Renewable::lazy(|| Box::pin(std::future::pending()));
    Table::new(client, name, columns(), config::TableSettings::default())
}

/// Creates a sink whose client is never ready.
fn storage_write() -> Sink {
    let schema = Schema::new(&columns()).unwrap();
    let appender = Renewable::lazy(|| Box::pin(std::future::pending()));
    Sink { table: table(), way: Way::StorageWrite { schema, appender } }
}

/// Creates a sink whose client is never ready.
fn insert_all() -> Sink {
    Sink::insert_all(table())
}

fn text(length: usize) -> Record {
    Record { cells: vec![Cell::Text("x".repeat(length))], insert_id: String::new() }
}

/// Creates a batch of rows with these lengths.
fn batch(sink: &Sink, lengths: impl IntoIterator<Item = usize>) -> Batch {
    let mut batch = sink.open(&());
    lengths.into_iter().for_each(|length| drop(sink.push(&mut batch, text(length), &mut ())));
    batch
}

/// Adds a row of this length to an empty batch.
fn alone(sink: &Sink, length: usize) -> Result<usize, PushError<Record>> {
    sink.push(&mut sink.open(&()), text(length), &mut ())
}

/// Bytes that a text takes in addition to its characters, as `batch::size` counts them.
const BESIDE: usize = 9;

#[test]
fn a_row_that_fits_no_request_is_refused() {
    for (sink, most) in [(storage_write(), 8_000_000), (insert_all(), 4_500_000)] {
        assert!(alone(&sink, most - BESIDE).is_ok_and(|bytes| bytes >= most - BESIDE));

        let Err(PushError::Refused(error)) = alone(&sink, most - BESIDE + 1) else {
            panic!("{most} bytes are the most")
        };
        assert_eq!(error.recovery(), Recovery::Reject(ROW_TOO_LARGE));
    }
}

#[test]
fn a_request_takes_rows_up_to_its_limit() {
    for (sink, most) in [(storage_write(), 8_000_000), (insert_all(), 4_500_000)] {
        let bytes = alone(&sink, 1000).unwrap();
        let room = most - bytes - BESIDE;

        let fits = sink.push(&mut batch(&sink, [1000]), text(room), &mut ());
        let next = sink.push(&mut batch(&sink, [1000]), text(room + 1), &mut ());

        assert!(fits.is_ok_and(|bytes| bytes >= most));
        assert!(matches!(next, Err(PushError::Full(_))), "{next:?}");
    }
}

#[test]
fn a_request_takes_rows_up_to_their_number() {
    for sink in [storage_write(), insert_all()] {
        let mut full = batch(&sink, std::iter::repeat_n(1, MAX_INSERT_ALL_ROWS - 1));

        assert!(sink.push(&mut full, text(1), &mut ()).is_ok());
        assert!(matches!(sink.push(&mut full, text(1), &mut ()), Err(PushError::Full(_))));
    }
}

#[test]
fn a_request_is_parted_where_it_is_asked_to() {
    let lengths = |encoded: &EncodedBatch| match encoded {
        EncodedBatch::Arrow(rows) => rows.num_rows(),
        EncodedBatch::Lines(rows) => rows.len(),
        EncodedBatch::Broken(why) => panic!("{why}"),
    };
    for sink in [storage_write(), insert_all()] {
        let encoded = sink.encode(batch(&sink, [1, 2, 3, 4, 5, 6, 7]), &mut ());

        let (first, second) = sink.split(&encoded, 2).unwrap();

        assert_eq!((lengths(&encoded), lengths(&first), lengths(&second)), (7, 2, 5));
    }
    assert!(storage_write().split(&EncodedBatch::Broken("why".into()), 1).is_none());
}

#[tokio::test]
async fn what_cannot_be_sent_ends_the_service() {
    let encoded = |sink: Sink| sink.encode(batch(&sink, [1]), &mut ());
    let broken = || EncodedBatch::Broken("wrong columns".into());
    for (sink, rows, why) in [
        (storage_write(), broken(), "wrong columns"),
        (insert_all(), broken(), "wrong columns"),
        (storage_write(), encoded(insert_all()), "rows of the other API"),
        (insert_all(), encoded(storage_write()), "rows of the other API"),
    ] {
        let error = sink.write(&rows, std::time::Duration::from_secs(30)).await.unwrap_err();

        assert_eq!((error.recovery(), error.detail().as_str()), (Recovery::Stop, why));
    }
    let foreign = insert_all().encode(batch(&storage_write(), [1]), &mut ());
    assert!(matches!(foreign, EncodedBatch::Broken(_)));
}

#[test]
fn an_insert_takes_a_minute_at_most_and_an_append_all_of_its_time() {
    let limits = |sink: Sink| [10, 150].map(|most| sink.attempt_timeout(Duration::from_secs(most)));

    assert_eq!(limits(storage_write()), [10, 150].map(Duration::from_secs));
    assert_eq!(limits(insert_all()), [10, 60].map(Duration::from_secs));
}
