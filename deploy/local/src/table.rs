//! Live table.

use std::fmt::Write as _;
use std::io::IsTerminal as _;
use std::time::Duration;

use e2e::fleet::Log;
use e2e::hosted::HostedService;
use e2e::metrics::Metrics;

use crate::progress::write;

/// Columns and rows of a terminal.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Size {
    columns: usize,
    rows: usize,
}

impl Size {
    /// Returns the current size of the terminal at standard output, or `None` if there is none.
    fn measure() -> Option<Self> {
        let out = std::io::stdout();
        if !out.is_terminal() {
            return None;
        }
        // A terminal without a size, such as a serial line, reports 0.
        let size = rustix::termios::tcgetwinsize(&out).ok();
        let size = size.filter(|size| size.ws_col > 0 && size.ws_row > 0);
        Some(size.map_or(Self { columns: 80, rows: 24 }, |size| Self {
            columns: size.ws_col.into(),
            rows: size.ws_row.into(),
        }))
    }
}

/// Table that is printed repeatedly, below a text that stays.
#[derive(Debug, Default)]
pub(crate) struct Table {
    /// Text above the table. It is printed again after the size of the terminal has changed.
    above: String,
    /// Number of lines of the table on the terminal.
    printed: usize,
    size: Option<Size>,
    last: Vec<u64>,
}

impl Table {
    /// Prints the text that stays above the table.
    pub(crate) fn below(above: String) -> Self {
        let table = Self { above, size: Size::measure(), ..Self::default() };
        write(&table.above);
        table
    }

    /// Prints the table. On a terminal, it replaces the previous one.
    pub(crate) fn print(&mut self, services: &[HostedService], log: &Log, since_last: Duration) {
        let seconds = since_last.as_secs_f64().max(0.001);
        let acknowledged = log.acknowledged_count();
        self.last.resize(services.len() + 1, 0);
        let rate = |now: u64, last: u64| (now.saturating_sub(last) as f64 / seconds) as u64;
        let mut lines = vec![line(HEADINGS)];
        let speed = rate(acknowledged, self.last[0]);
        let waiting = log.sent_count().saturating_sub(acknowledged);
        let fleet = [acknowledged, speed, waiting].map(|count| count.to_string());
        let [sent, speed, waiting] = &fleet;
        lines.push(line(["devices", "", sent, speed, waiting, "", "", ""]));
        self.last[0] = acknowledged;
        for (index, service) in services.iter().enumerate() {
            let metrics = service.metrics();
            let sent = metrics.pipeline("sent_messages_total");
            lines.push(row(service.name, &metrics, rate(sent, self.last[index + 1])));
            self.last[index + 1] = sent;
        }
        let text = self.redrawn(&lines, Size::measure());
        write(&text);
    }

    /// Prints a line below the table, which stays. The next table follows below the line.
    pub(crate) fn note(&mut self, text: &str) {
        self.printed = 0;
        write(&format!("\n{text}\n"));
    }

    /// Returns text that replaces the previous lines by these.
    fn redrawn(&mut self, lines: &[String], size: Option<Size>) -> String {
        let mut text = String::new();
        if let Some(size) = size {
            if self.size.is_some_and(|before| before != size) {
                // Each terminal wraps old lines in its own way, so the whole screen is cleared.
                text.push_str("\x1b[H\x1b[2J");
                text.push_str(&self.above);
            } else if self.printed > 0 {
                // Writing to a string cannot fail.
                write!(text, "\x1b[{}A\x1b[J", self.printed).unwrap_or_default();
            }
        }
        self.size = size;
        let fitting = size.map_or(lines.len(), |size| size.rows.saturating_sub(1));
        let columns = size.map_or(usize::MAX, |size| size.columns);
        self.printed = fitting.min(lines.len());
        for line in lines.iter().take(fitting) {
            text.extend(line.chars().take(columns));
            text.push('\n');
        }
        text
    }
}

const HEADINGS: [&str; 8] =
    ["", "received", "sent", "sent/s", "in flight", "dead letters", "delay p50", "p99"];

fn row(name: &str, metrics: &Metrics, rate: u64) -> String {
    let value = |name: &str| metrics.pipeline(name).to_string();
    let age = |share| metrics.age_bound(share).map_or_else(|| "-".to_owned(), age_text);
    line([
        name,
        &value("received_messages_total"),
        &value("sent_messages_total"),
        &rate.to_string(),
        &value("in_flight_messages"),
        &value("dead_lettered_messages_total"),
        &age(0.5),
        &age(0.99),
    ])
}

/// Formats an age in at most seven characters.
fn age_text(seconds: f64) -> String {
    match seconds {
        seconds if seconds.is_infinite() => ">30 min".to_owned(),
        seconds if seconds < 1.0 => format!("{:.0} ms", seconds * 1e3),
        seconds if seconds < 10.0 => format!("{seconds:.1} s"),
        seconds => format!("{seconds:.0} s"),
    }
}

/// Formats a line of 78 characters, if no value is longer than its column.
fn line(cells: [&str; 8]) -> String {
    const WIDTHS: [usize; 7] = [10, 10, 7, 10, 13, 10, 8];
    let [name, rest @ ..] = cells;
    let mut text = format!("{name:<10}");
    for (cell, width) in rest.iter().zip(WIDTHS) {
        // Writing to a string cannot fail.
        write!(text, "{cell:>width$}").unwrap_or_default();
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    const WIDE: Size = Size { columns: 100, rows: 40 };

    fn lines() -> Vec<String> {
        vec![line(HEADINGS), line(["bigqueries", "1", "2", "3", "4", "5", "6", "7"])]
    }

    #[test]
    fn the_table_fits_the_usual_terminal() {
        let [count, speed] = ["123456789", "999999"];
        let full = ["bigqueries", count, count, speed, count, count, ">30 min", ">30 min"];

        for cells in [HEADINGS, full] {
            let text = line(cells);
            assert!(text.len() <= 79, "{} characters: {text}", text.len());
            let apart = text.split("  ").flat_map(|part| part.split(' ')).filter(|p| !p.is_empty());
            assert!(apart.count() >= cells.iter().filter(|cell| !cell.is_empty()).count());
        }
    }

    #[test]
    fn ages_fit_their_column() {
        let ages = [0.001, 0.512, 1.024, 8.192, 16.384, 2097.152, f64::INFINITY].map(age_text);

        assert_eq!(ages, ["1 ms", "512 ms", "1.0 s", "8.2 s", "16 s", "2097 s", ">30 min"]);
    }

    #[test]
    fn a_table_is_drawn_over_the_one_before() {
        let mut table = Table { size: Some(WIDE), above: "above\n".into(), ..Table::default() };

        let first = table.redrawn(&lines(), Some(WIDE));
        let second = table.redrawn(&lines(), Some(WIDE));

        assert!(!first.contains('\x1b'), "{first:?}");
        assert_eq!(second, format!("\x1b[2A\x1b[J{first}"));
    }

    #[test]
    fn a_table_after_a_note_is_drawn_below_it() {
        let mut table = Table { size: Some(WIDE), above: "above\n".into(), ..Table::default() };
        let first = table.redrawn(&lines(), Some(WIDE));

        table.note("stopping");

        assert_eq!(table.redrawn(&lines(), Some(WIDE)), first);
    }

    #[test]
    fn a_terminal_that_has_another_size_is_drawn_anew_with_lines_that_fit() {
        let mut table = Table { size: Some(WIDE), above: "above\n".into(), ..Table::default() };
        table.redrawn(&lines(), Some(WIDE));

        let small = Size { columns: 30, rows: 2 };
        let text = table.redrawn(&lines(), Some(small));

        let drawn = text.strip_prefix("\x1b[H\x1b[2Jabove\n").unwrap();
        assert_eq!(drawn.lines().count(), 1, "{drawn:?}");
        assert!(drawn.lines().all(|line| line.len() == 30), "{drawn:?}");
        assert_eq!(table.redrawn(&lines(), Some(small)), format!("\x1b[1A\x1b[J{drawn}"));
    }

    #[test]
    fn a_file_gets_whole_lines_and_no_control_sequences() {
        let mut table = Table::default();
        table.redrawn(&lines(), None);

        let text = table.redrawn(&lines(), None);

        assert_eq!(text.lines().collect::<Vec<_>>(), lines());
    }
}
