//! Inserts rows with `tabledata.insertAll`.

use std::collections::BTreeMap;
use std::sync::{Mutex, MutexGuard, PoisonError};

use pipeline::{Error, Recovery};
use serde_json::Value;

use crate::batch::Lines;
use crate::response::{self, RowResponse};
use crate::table::Table;
use bigquery::{Failure, Refused, RestApi};
use rows::column::Column;

/// Name of the action in errors.
const INSERT: &str = "insert rows";

/// Rows for `insertAll`. Earlier attempts may have settled some of them.
#[derive(Debug)]
pub struct Insertion {
    lines: Lines,
    /// Outcome of each settled row, by its index: `None` if it was written, else the reason of its
    /// refusal.
    settled: Mutex<BTreeMap<usize, Option<String>>>,
}

impl Insertion {
    pub(super) fn new(lines: Lines) -> Self {
        Self { lines, settled: Mutex::default() }
    }

    #[cfg(test)]
    pub(super) fn len(&self) -> usize {
        self.lines.len()
    }

    fn settled(&self) -> MutexGuard<'_, BTreeMap<usize, Option<String>>> {
        self.settled.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Returns the indices of the rows that must be sent.
    fn left(&self) -> Vec<usize> {
        let settled = self.settled();
        (0..self.lines.len()).filter(|row| !settled.contains_key(row)).collect()
    }

    /// Returns the indices of the rows that were written.
    pub(super) fn written(&self) -> Vec<usize> {
        let settled = self.settled();
        settled.iter().filter(|(_, refusal)| refusal.is_none()).map(|(row, _)| *row).collect()
    }

    /// Returns the refused rows, with the text of BigQuery.
    fn refused(&self) -> BTreeMap<usize, String> {
        let settled = self.settled();
        let refused = settled.iter().filter_map(|(row, why)| Some((*row, why.clone()?)));
        refused.collect()
    }

    /// Records the rows that were written. Returns the rows that were refused, and the reason for
    /// which others must be sent again.
    fn settle_written(&self, answer: Answer) -> (BTreeMap<usize, Option<String>>, Option<String>) {
        let Answer { settled, again } = answer;
        let (refused, written) = settled.into_iter().partition(|(_, refusal)| refusal.is_some());
        let written: BTreeMap<usize, Option<String>> = written;
        self.settled().extend(written);
        (refused, again)
    }

    pub(super) fn split(&self, at: usize) -> (Self, Self) {
        let (first, second) = self.lines.split(at);
        let mut before = self.settled().clone();
        let after = before.split_off(&at).into_iter().map(|(row, why)| (row - at, why)).collect();
        let part = |lines, settled| Self { lines, settled: Mutex::new(settled) };
        (part(first, before), part(second, after))
    }
}

/// Answer of `insertAll`.
#[derive(Debug, Default)]
struct Answer {
    /// Outcome of each settled row, by its index: `None` if it was written, else the reason of its
    /// refusal.
    settled: BTreeMap<usize, Option<String>>,
    /// Reason for which rows that are not settled must be sent again.
    again: Option<String>,
}

impl Answer {
    /// Reads the errors of the rows that were sent. All rows without an error were written.
    fn read(sent: &[usize], errors: &[Value], columns: &[Column]) -> Self {
        let mut outcomes: BTreeMap<usize, Option<String>> =
            sent.iter().map(|row| (*row, None)).collect();
        let mut again = None;
        for error in errors {
            let place = error["index"].as_u64().and_then(|index| usize::try_from(index).ok());
            let Some(row) = place.and_then(|place| sent.get(place)) else {
                let why = format!("an error that names none of the rows: {error}");
                return Self { again: Some(why), ..Self::default() };
            };
            let errors = error["errors"].as_array().map(Vec::as_slice).unwrap_or_default();
            if errors.is_empty() {
                outcomes.remove(row);
                again.get_or_insert("a row without a reason".into());
            }
            for error in errors {
                let [reason, location, message] = ["reason", "location", "message"]
                    .map(|member| error[member].as_str().unwrap_or_default());
                let why = format!("column {location}: {message}");
                match response::of_inserted_row(reason, location, message, columns) {
                    RowResponse::Refused => {
                        outcomes.entry(*row).and_modify(|outcome| *outcome = Some(why));
                    }
                    RowResponse::Retry => {
                        outcomes.remove(row);
                        again.get_or_insert(format!("{reason}: {why}"));
                    }
                }
            }
        }
        Self { settled: outcomes, again }
    }
}

/// Inserts the rows that are left, and returns the rows that BigQuery refused by name.
///
/// A refusal counts only if the table matches the settings; see [`Table::check_fit`]. The first
/// refusal may have come from a table that was replaced since then. So the same rows are sent once
/// more after the first check.
pub(super) async fn insert(
    rows: &Insertion,
    api: &RestApi,
    table: &Table,
) -> Result<BTreeMap<usize, String>, Error> {
    let mut is_known_to_fit = false;
    loop {
        let left = rows.left();
        if left.is_empty() {
            return Ok(rows.refused());
        }
        let answer = send(rows, &left, api, table).await?;
        let (refusals, again) = rows.settle_written(answer);
        if !refusals.is_empty() {
            let fit = table.check_fit().await;
            fit.map_err(|difference| Recovery::Retry.because(INSERT, difference))?;
            if std::mem::replace(&mut is_known_to_fit, true) {
                rows.settled().extend(refusals);
            } else {
                continue;
            }
        }
        if let Some(why) = again {
            return Err(Recovery::Retry.because(INSERT, why));
        }
    }
}

/// Sends one request.
async fn send(
    rows: &Insertion,
    left: &[usize],
    api: &RestApi,
    table: &Table,
) -> Result<Answer, Error> {
    let body = rows.lines.body(left);
    let body = body.map_err(|error| Recovery::Retry.because("compress", error))?;
    let bytes = rows.lines.bytes_of(left);
    match api.insert_all(table.name(), body).await {
        Ok(answer) => {
            let errors = answer["insertErrors"].as_array().map(Vec::as_slice).unwrap_or_default();
            Ok(Answer::read(left, errors, table.columns()))
        }
        Err(Failure::Refused(Refused { status, reason, message })) => {
            let response = response::of_insert_all(status, &reason, &message, bytes);
            let error = response.because(INSERT, format!("{message} ({reason})"));
            error.map_or_else(|| Ok(Answer::read(left, &[], table.columns())), Err)
        }
        Err(unanswered) => Err(Recovery::Retry.because(INSERT, unanswered.to_string())),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use rows::cell::Cell;
    use rows::column::Kind;

    fn columns() -> [Column; 1] {
        [Column::new("n", Kind::Int64)]
    }

    fn insertion() -> Insertion {
        let mut lines = Lines::default();
        (0..3).for_each(|n| lines.push(&columns(), &[Cell::Int(n)], ""));
        Insertion::new(lines)
    }

    fn row_error(index: i64, reason: &str) -> Value {
        let error = json!({ "reason": reason, "location": "n", "message": "bad value" });
        json!({ "index": index, "errors": [error, error] })
    }

    /// Records everything that an answer says.
    fn note(rows: &Insertion, sent: &[usize], errors: &[Value]) -> Option<String> {
        let (refused, again) = rows.settle_written(Answer::read(sent, errors, &columns()));
        rows.settled().extend(refused);
        again
    }

    fn refused(rows: &[usize]) -> BTreeMap<usize, String> {
        rows.iter().map(|row| (*row, "column n: bad value".to_owned())).collect()
    }

    #[test]
    fn rows_that_insert_all_refuses_are_noted_and_the_others_are_written() {
        let rows = insertion();
        let errors = [row_error(0, "invalid"), row_error(2, "invalid")];

        assert_eq!(note(&rows, &[0, 1, 2], &errors), None);

        assert_eq!((rows.left(), rows.refused()), (vec![], refused(&[0, 2])));
    }

    #[test]
    fn rows_that_failed_are_sent_again_without_the_others() {
        let rows = insertion();
        let errors = [row_error(0, "invalid"), row_error(1, "stopped")];

        let again = note(&rows, &[0, 1, 2], &errors);

        assert_eq!(again.as_deref(), Some("stopped: column n: bad value"));
        assert_eq!((rows.left(), rows.refused()), (vec![1], refused(&[0])));
        assert_eq!(note(&rows, &[1], &[row_error(0, "invalid")]), None);
        assert_eq!((rows.left(), rows.refused()), (vec![], refused(&[0, 1])));
    }

    #[test]
    fn a_row_that_is_named_without_a_reason_is_sent_again() {
        for error in [json!({ "index": 1 }), json!({ "index": 1, "errors": [] })] {
            let rows = insertion();

            assert!(note(&rows, &[0, 1, 2], &[error]).is_some());
            assert_eq!(rows.left(), [1]);
        }
    }

    #[test]
    fn an_error_that_names_no_row_settles_nothing() {
        let unnamed = json!({ "errors": [{ "reason": "invalid" }] });
        for error in [row_error(3, "invalid"), row_error(-1, "invalid"), unnamed] {
            let rows = insertion();
            let errors = [row_error(0, "invalid"), error];

            assert!(note(&rows, &[0, 1, 2], &errors).is_some());
            assert_eq!((rows.left(), rows.refused()), (vec![0, 1, 2], refused(&[])));
        }
    }

    #[test]
    fn rows_that_were_written_are_settled_before_the_others_are_judged() {
        let rows = insertion();
        let errors = [row_error(0, "invalid"), row_error(2, "stopped")];

        let (refusals, again) = rows.settle_written(Answer::read(&[0, 1, 2], &errors, &columns()));

        assert_eq!(refusals, [(0, Some("column n: bad value".to_owned()))].into());
        assert_eq!(again.as_deref(), Some("stopped: column n: bad value"));
        assert_eq!((rows.left(), rows.refused()), (vec![0, 2], refused(&[])));
    }

    #[test]
    fn settled_rows_stay_so_when_a_batch_is_parted() {
        let rows = insertion();
        let errors = [row_error(1, "stopped"), row_error(2, "invalid")];
        assert!(note(&rows, &[0, 1, 2], &errors).is_some());

        let (first, second) = rows.split(1);

        assert_eq!((first.left(), first.refused()), (vec![], refused(&[])));
        assert_eq!((second.left(), second.refused()), (vec![0], refused(&[1])));
    }
}
