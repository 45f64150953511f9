//! Tables that answer questions for rows, and the pages that they answer with.

use std::ops::ControlFlow;
use std::time::Duration;

use tokio::time::timeout;

use crate::parameters::{Parameters, Place};

/// Bytes of rows after which a page ends, even if the caller asked for more rows.
pub(crate) const MAX_PAGE_BYTES: usize = 8 * 1024 * 1024;
/// Time limit of a check of the table.
const CHECK_TIMEOUT: Duration = Duration::from_secs(5);

/// Table that is asked. Clones share its connections.
///
/// All implementations give the same answer for the same rows: the same rows in the same order, each
/// with the same text, as far as their types allow. Rows that are there twice are answered once.
///
/// One exception is a message that was sent again with the same id and another time. PostgreSQL with
/// partitions by day answers with both rows, because the time is a part of the key. BigQuery answers
/// with one, if both times are in the interval.
pub trait Store: Clone + Send + Sync + 'static {
    /// Returns a page of rows, in the order of their time and id. Values of `asked` are bound to the
    /// query, and never a part of its text.
    ///
    /// A caller that drops the future gives up the answer. The server ends such a query, too.
    fn page(&self, asked: &Parameters) -> impl Future<Output = Result<Page, Failure>> + Send;

    /// Checks that the table can be read, and has the columns of the query. Reads no rows.
    fn check(&self) -> impl Future<Output = Result<(), Failure>> + Send;

    /// Returns the name of the table, for people.
    fn name(&self) -> String;
}

/// Rows of an answer.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Page {
    /// Each row as a JSON object.
    pub rows: Vec<String>,
    /// Place after which the next page begins, if there are more rows.
    pub next: Option<Place>,
}

/// Reason why the table gave no answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Failure {
    /// The query took too long.
    Slow,
    /// The query would read more than the settings allow.
    Costly,
    /// A quota or the resources of the server are used up for now. Holds the reason.
    Busy(String),
    /// The table does not exist. Holds the reason.
    Missing(String),
    /// We may not read the table. Holds the reason.
    Denied(String),
    /// The table lacks a column, or a column has another type. Holds the reason.
    Differs(String),
    /// The server is not available. Holds the reason.
    Away(String),
}

impl Failure {
    /// Returns the reason, for logs and the state of the service.
    #[must_use]
    pub fn why(&self) -> &str {
        match self {
            Self::Slow => "it does not answer in time",
            Self::Costly => "a query of it would be billed for too many bytes",
            Self::Busy(why)
            | Self::Missing(why)
            | Self::Denied(why)
            | Self::Differs(why)
            | Self::Away(why) => why,
        }
    }

    /// Returns true if no other query would be answered either.
    #[must_use]
    pub fn is_outage(&self) -> bool {
        !matches!(self, Self::Slow | Self::Costly | Self::Busy(_))
    }
}

/// Checks a table within a time limit.
///
/// # Errors
/// The table cannot be asked.
pub(crate) async fn check(store: &impl Store) -> Result<(), Failure> {
    timeout(CHECK_TIMEOUT, store.check()).await.unwrap_or(Err(Failure::Slow))
}

/// Returns a failure in words, with the name of the table.
pub(crate) fn told(store: &impl Store, failure: &Failure) -> String {
    format!("table {}: {}", store.name(), failure.why())
}

/// Page that rows are added to.
pub(crate) struct PageBuilder {
    most: usize,
    page: Page,
    last: Option<Place>,
    bytes: usize,
}

/// Bound at which a page ends, though there are more rows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum PageEnd {
    /// The caller asked for no more rows.
    Limit,
    /// The rows have too many bytes.
    Bytes,
}

impl PageBuilder {
    /// Creates an empty page for the rows that a caller asked for.
    pub(crate) fn new(asked: &Parameters) -> Self {
        let most = usize::try_from(asked.limit).unwrap_or_default();
        Self { most, page: Page::default(), last: None, bytes: 0 }
    }

    /// Adds a row, or ends the page before it. The row beyond the last one tells that there is a next
    /// page.
    pub(crate) fn push(&mut self, row: String, place: Place) -> ControlFlow<PageEnd> {
        let end = if self.page.rows.len() >= self.most {
            PageEnd::Limit
        } else if self.bytes > MAX_PAGE_BYTES {
            PageEnd::Bytes
        } else {
            self.bytes += row.len();
            self.page.rows.push(row);
            self.last = Some(place);
            return ControlFlow::Continue(());
        };
        self.page.next = self.last.take();
        ControlFlow::Break(end)
    }

    /// Returns the page.
    pub(crate) fn finish(self) -> Page {
        self.page
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn place(micros: i64) -> Place {
        Place { micros, ingest_id: "i".into() }
    }

    #[test]
    fn a_page_ends_at_its_limit_with_the_place_of_its_last_row() {
        let mut page = PageBuilder::new(&Parameters { limit: 2, ..Parameters::default() });

        assert!(page.push("a".into(), place(1)).is_continue());
        assert!(page.push("b".into(), place(2)).is_continue());
        assert_eq!(page.push("c".into(), place(3)), ControlFlow::Break(PageEnd::Limit));

        let page = page.finish();
        assert_eq!((page.rows.len(), page.next), (2, Some(place(2))));
    }

    #[test]
    fn a_page_ends_after_its_bytes_though_more_rows_were_asked_for() {
        let mut page = PageBuilder::new(&Parameters { limit: 9, ..Parameters::default() });
        let half = "x".repeat(MAX_PAGE_BYTES / 2);

        for number in 1..=3 {
            assert!(page.push(half.clone(), place(number)).is_continue(), "{number}");
        }
        assert_eq!(page.push(half, place(4)), ControlFlow::Break(PageEnd::Bytes));

        let page = page.finish();
        assert_eq!((page.rows.len(), page.next), (3, Some(place(3))));
    }

    #[test]
    fn the_last_page_has_no_next_one() {
        let mut page = PageBuilder::new(&Parameters { limit: 1, ..Parameters::default() });

        assert!(page.push("a".into(), place(1)).is_continue());

        assert_eq!(page.finish().next, None);
    }
}
