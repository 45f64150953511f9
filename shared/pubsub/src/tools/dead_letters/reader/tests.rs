//! Tests of the reader that need its state.

use emulator::Kind;
use time::macros::datetime;
use tokio::time::advance;
use tonic::Code;

use super::super::Seen;
use super::super::tests::{ToolEnv, texts};
use super::*;
use crate::connection::Connection;

impl Reader {
    /// Treats all messages from now on as new.
    pub(in crate::tools::dead_letters) fn forget_the_second(&mut self) {
        self.started_at = self.started_at.map(|time| time - Duration::from_secs(2));
    }

    /// Sets the time of the start. Messages from before it are old, and all others may be new.
    pub(in crate::tools::dead_letters) fn start_at(&mut self, time: OffsetDateTime) {
        self.started_at = Some(time);
    }

    /// Treats the last extension as a minute old.
    pub(in crate::tools::dead_letters) fn forget_the_extension(&mut self) {
        self.extended_at -= Duration::from_secs(60);
    }

    /// Ends the reading as a signal does. A real signal would end the readers of other tests, too.
    pub(in crate::tools::dead_letters) fn interrupt(&mut self) {
        self.shortfall = Some(Shortfall::Interrupted);
    }
}

/// Returns a reader of a server that is not there.
async fn unconnected() -> Reader {
    service::install_crypto();
    let url = Some("http://127.0.0.1:1".to_owned());
    let endpoint = crate::settings::Endpoint { endpoint: url.map(Into::into), ..<_>::default() };
    let connection = Connection::new(endpoint);
    let puller = Puller::new(&connection, "projects/p/subscriptions/s").await.unwrap();
    Reader::new(puller, Limits { max: 10, wait: Duration::ZERO }).unwrap()
}

#[tokio::test]
async fn a_letter_is_certainly_old_only_two_seconds_before_the_start() {
    let mut reader = unconnected().await;
    let start = datetime!(2025-06-15 10:00 UTC);
    let published = |publish_time| Message { publish_time, ..Message::new("x") };
    let nano = Duration::from_nanos(1);

    assert!(reader.may_be_new(&published(start - 3600 * SECOND)), "the start is not known");
    reader.started_at = Some(start);

    assert!(!reader.may_be_new(&published(start - 3600 * SECOND)));
    assert!(!reader.may_be_new(&published(start - 2 * SECOND - nano)));
    assert!(reader.may_be_new(&published(start - 2 * SECOND)));
    assert!(reader.may_be_new(&published(start)));
    assert!(reader.may_be_new(&published(start + SECOND)));
}

#[tokio::test(flavor = "multi_thread")]
async fn an_error_after_letters_were_read_is_a_shortfall() {
    let env = ToolEnv::with_letters(2).await;
    let mut reader = env.reader(10).await;
    let page = reader.page().await.unwrap().unwrap();
    env.disturb_pull(Kind::refuse(Code::PermissionDenied));

    let next = reader.page().await.unwrap();

    assert_eq!((page.len(), next), (2, None));
    let seen = Seen::close(reader).await;
    let error = seen.whole().unwrap_err().to_string();
    assert!(error.starts_with("not all letters were read: Pub/Sub failed: pull: 403"), "{error}");
    assert!(error.ends_with("; run it again later"), "{error}");
    assert_eq!(env.read().await.len(), 2, "all are back");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_interrupted_reader_reads_no_more_and_returns_its_letters() {
    let env = ToolEnv::with_letters(30).await;
    let mut reader = env.reader(10).await;
    let page = reader.page().await.unwrap().unwrap();

    reader.interrupt();
    let next = reader.page().await.unwrap();

    assert_eq!((page.len(), next), (10, None));
    let seen = Seen::close(reader).await;
    let error = seen.whole().unwrap_err().to_string();
    let expected = "not all letters were read: it was interrupted; run it again and let it finish";
    assert_eq!(error, expected);
    assert_eq!(env.read().await.len(), 30, "all are back");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_removed_letter_that_is_delivered_again_is_removed_again() {
    let env = ToolEnv::with_letters(2).await;
    env.take_snapshot("all").await;
    let mut reader = env.reader(10).await;
    let page = reader.page().await.unwrap().unwrap();
    reader.finish(&page[0].id);
    reader.remove().await.unwrap();
    assert_eq!(texts(&env.backlog().await), ["1"]);
    env.seek("dead-letters", "all").await;
    assert_eq!(texts(&env.backlog().await), ["0", "1"]);

    let next = reader.page().await.unwrap();
    reader.close().await.unwrap();

    assert_eq!((next, reader.read()), (None, 2));
    assert_eq!(texts(&env.backlog().await), ["1"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_finished_letter_that_is_delivered_again_is_removed_once() {
    let env = ToolEnv::with_letters(2).await;
    let mut reader = env.reader(10).await;
    let page = reader.page().await.unwrap().unwrap();
    reader.finish(&page[0].id);
    // The lease ends before the letter is removed.
    reader.puller.lease(&ack_ids(&reader.finished), Duration::ZERO).await.unwrap();

    let next = reader.page().await.unwrap();
    reader.close().await.unwrap();

    assert_eq!((next, reader.read()), (None, 2));
    assert_eq!(texts(&env.backlog().await), ["1"]);
}

#[tokio::test(start_paused = true)]
async fn an_extension_is_due_when_the_interval_has_passed_and_not_before() {
    let mut reader = unconnected().await;
    reader.extended_at = Instant::now();
    let start = reader.extended_at;
    let milli = Duration::from_millis(1);

    advance(EXTENSION_INTERVAL - milli).await;
    reader.extend_leases().await;
    assert_eq!(reader.extended_at, start);

    advance(milli).await;
    reader.extend_leases().await;
    assert_eq!(reader.extended_at, start + EXTENSION_INTERVAL);
}
