//! Report of the account, for people and for programs.

use std::fmt::Write as _;
use std::time::Duration;

use e2e::reconcile::Reconciliation;
use serde::Serialize;

use crate::account::Account;
use crate::progress::write;

/// Account with its times, as in the report.
#[derive(Debug, Serialize)]
pub(crate) struct Report {
    #[serde(flatten)]
    pub totals: Reconciliation,
    /// Broken promises besides those in the totals.
    pub problems: Vec<String>,
    /// Time from the first message until all are accounted for.
    pub elapsed_seconds: f64,
    /// Archived messages per second of that time, or rows if there is no archive.
    pub messages_per_second: f64,
}

impl Report {
    /// Creates the report of a run with this duration.
    pub(crate) fn of(account: Account, elapsed: Duration) -> Self {
        let Account { totals, problems } = account;
        let elapsed_seconds = elapsed.as_secs_f64();
        let arrived = if totals.archived > 0 { totals.archived } else { totals.rows };
        let messages_per_second = arrived as f64 / elapsed_seconds;
        Self { totals, problems, elapsed_seconds, messages_per_second }
    }

    /// Returns true if every promise was kept.
    pub(crate) fn is_clean(&self) -> bool {
        self.totals.is_clean() && self.problems.is_empty()
    }
}

/// Prints the account.
pub(crate) fn print_report(report: &Report) {
    // Writing to a string cannot fail.
    let mut text = String::new();
    write_report(&mut text, report).unwrap_or_default();
    write(&text);
}

fn write_report(text: &mut String, report: &Report) -> std::fmt::Result {
    let totals = &report.totals;
    let rows = [
        ("sent", totals.sent, "by the devices"),
        ("acknowledged", totals.acknowledged, "by the receiver: each of these must be found again"),
        ("rows", totals.rows, "in the table"),
        ("archived", totals.archived, "in the archive, if there is one"),
        ("dead letters", totals.dead_letters, "refused, with the reason; also if replayed since"),
        ("missing", totals.missing, "neither at both ends nor in the dead letters"),
        ("corrupted", totals.corrupted, "arrived with a content that was not sent"),
        ("invented", totals.unexpected, "arrived, and no device sent them"),
        ("duplicates", totals.duplicates, "arrived again: redelivered, or replayed"),
    ];
    writeln!(text)?;
    for (name, value, note) in rows {
        writeln!(text, "{name:<14}{value:>10}  {note}")?;
    }
    writeln!(text, "{:<14}{:>10.1}", "seconds", report.elapsed_seconds)?;
    writeln!(text, "{:<14}{:>10.0}", "messages/s", report.messages_per_second)?;
    let verdict = if totals.is_clean() {
        "every message is accounted for"
    } else {
        "messages are missing, corrupted or invented"
    };
    writeln!(text, "\n{verdict}")?;
    report.problems.iter().try_for_each(|problem| writeln!(text, "{problem}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_account_says_what_becomes_of_dead_letters_that_were_replayed() {
        let totals = Reconciliation { dead_letters: 2, duplicates: 1, ..Reconciliation::default() };
        let account = Account { totals, problems: Vec::new() };
        let report = Report::of(account, Duration::from_millis(1500));
        let mut text = String::new();

        write_report(&mut text, &report).unwrap();

        let line = |name: &str| text.lines().find(|line| line.starts_with(name)).unwrap();
        let words = |name| line(name).split_whitespace().skip(1).collect::<Vec<_>>().join(" ");
        assert!(
            line("dead letters").ends_with("2  refused, with the reason; also if replayed since")
        );
        assert_eq!(words("duplicates"), "1 arrived again: redelivered, or replayed");
        assert!(text.lines().all(|line| line.len() <= 79), "{text}");
        assert!(text.ends_with("\nevery message is accounted for\n"), "{text}");
    }

    #[test]
    fn a_broken_promise_is_told_and_fails_the_run() {
        let problems = vec!["2 rows are copies of others".to_owned()];
        let account = Account { totals: Reconciliation::default(), problems };

        let report = Report::of(account, Duration::from_secs(1));

        let mut text = String::new();
        write_report(&mut text, &report).unwrap();
        assert!(report.totals.is_clean() && !report.is_clean());
        assert!(text.ends_with("\n2 rows are copies of others\n"), "{text}");
    }
}
