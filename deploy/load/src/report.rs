//! Report of a run, as a table and as JSON.

use std::fmt;
use std::time::Duration;

use serde::Serialize;
use tokio::time::Instant;

use crate::histogram::{ENDS, Histogram};
use crate::tally::{Counts, Texts};

/// Share by which a run may be longer than planned.
const TOLERANCE: f64 = 0.01;
/// Time by which a run may be longer than planned, in addition.
const SLACK: Duration = Duration::from_millis(100);

/// Exit codes, as `--help` lists them.
mod code {
    pub(super) const CONFIRMED: u8 = 0;
    pub(super) const REFUSED: u8 = 3;
    pub(super) const UNCONFIRMED: u8 = 4;
    pub(super) const UNSENT: u8 = 5;
}

/// Run that a report is about.
#[derive(Debug, Clone, Serialize)]
pub(crate) struct RunSubject {
    /// Target, without credentials.
    pub target: String,
    /// Protocol, such as `MQTT 5`.
    pub protocol: &'static str,
    /// Id of the run.
    pub run: String,
    /// Seed of the random values.
    pub seed: u64,
    /// Number of devices.
    pub devices: u32,
    /// Number of planned messages; null for a run that only a time or Ctrl-C ends.
    pub expected: Option<u64>,
    /// Messages a second that are planned; null for a run as fast as messages are confirmed.
    pub planned_rate: Option<f64>,
}

/// Report of a run.
#[derive(Debug, Clone, Serialize)]
pub(crate) struct Report {
    #[serde(flatten)]
    subject: RunSubject,
    sent: u64,
    confirmed: u64,
    refused: u64,
    unconfirmed: u64,
    /// Planned messages that were not sent.
    unsent: u64,
    /// Attempts after the first one.
    resent: u64,
    reconnects: u64,
    /// Messages a second that were sent; null for less than two.
    achieved_rate: Option<f64>,
    /// Null for a run without a planned rate.
    is_rate_kept: Option<bool>,
    /// Time from the start to the last answer.
    seconds: f64,
    /// Latencies from the planned time to the confirmation.
    from_plan: Latencies,
    /// Latencies from the first attempt to the confirmation.
    from_send: Latencies,
    histogram: Vec<Row>,
    answers: Texts,
    refusals: Texts,
    failures: Texts,
    /// Reason of an early end.
    stopped: Option<String>,
    exit_code: u8,
}

/// Latencies in milliseconds.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
struct Latencies {
    mean_ms: f64,
    p50_ms: f64,
    p90_ms: f64,
    p99_ms: f64,
    p999_ms: f64,
    max_ms: f64,
}

/// Row of the histogram.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
struct Row {
    /// Longest latency of the row; null for the last one.
    up_to_ms: Option<f64>,
    from_plan: u64,
    from_send: u64,
}

impl Report {
    /// Makes the report of a run that began at `start` and has just ended.
    pub(crate) fn new(
        subject: RunSubject,
        counts: &Counts,
        start: Instant,
        stopped: Option<String>,
    ) -> Self {
        let unsent = subject.expected.map_or(0, |expected| expected.saturating_sub(counts.sent));
        let span = counts.last_sent.map(|last| last - start).unwrap_or_default();
        let steps = counts.sent.saturating_sub(1) as f64;
        let achieved_rate = (steps > 0.0 && !span.is_zero()).then(|| steps / span.as_secs_f64());
        let is_rate_kept = subject.planned_rate.map(|rate| {
            let longest = steps / rate * (1.0 + TOLERANCE) + SLACK.as_secs_f64();
            unsent == 0 && span.as_secs_f64() <= longest
        });
        let exit_code = match (counts.unconfirmed(), counts.refused, unsent) {
            (0, 0, 0) => code::CONFIRMED,
            (0, 0, _) => code::UNSENT,
            (0, _, _) => code::REFUSED,
            _ => code::UNCONFIRMED,
        };
        Self {
            subject,
            sent: counts.sent,
            confirmed: counts.confirmed,
            refused: counts.refused,
            unconfirmed: counts.unconfirmed(),
            unsent,
            resent: counts.resent,
            reconnects: counts.reconnects,
            achieved_rate,
            is_rate_kept,
            seconds: start.elapsed().as_secs_f64(),
            from_plan: Latencies::of(&counts.from_plan),
            from_send: Latencies::of(&counts.from_send),
            histogram: rows(counts),
            answers: counts.answers.clone(),
            refusals: counts.refusals.clone(),
            failures: counts.failures.clone(),
            stopped,
            exit_code,
        }
    }

    /// Returns the exit code of the process.
    pub(crate) fn exit_code(&self) -> u8 {
        self.exit_code
    }
}

impl Latencies {
    fn of(micros: &Histogram) -> Self {
        let at = |quantile| millis(micros.quantile(quantile));
        Self {
            mean_ms: micros.mean() / 1000.0,
            p50_ms: at(0.5),
            p90_ms: at(0.9),
            p99_ms: at(0.99),
            p999_ms: at(0.999),
            max_ms: millis(micros.max()),
        }
    }
}

/// Returns the rows from the first to the last one that has a message.
fn rows(counts: &Counts) -> Vec<Row> {
    let ends = ENDS.into_iter().map(Some).chain([None]);
    let both = counts.from_plan.rows().iter().zip(counts.from_send.rows());
    let all = ends.zip(both).map(|(end, (from_plan, from_send))| Row {
        up_to_ms: end.map(millis),
        from_plan: *from_plan,
        from_send: *from_send,
    });
    let is_empty = |row: &Row| row.from_plan == 0 && row.from_send == 0;
    let mut rows: Vec<_> = all.skip_while(is_empty).collect();
    while rows.last().is_some_and(is_empty) {
        rows.pop();
    }
    rows
}

fn millis(micros: u64) -> f64 {
    micros as f64 / 1000.0
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let RunSubject { target, protocol, run, seed, devices, expected, .. } = &self.subject;
        writeln!(f, "target     {target} ({protocol}), {devices} devices, run {run}, seed {seed}")?;
        let expected = expected.map_or("any number".to_owned(), |expected| expected.to_string());
        let Self { sent, confirmed, refused, unconfirmed, unsent, .. } = self;
        writeln!(f, "messages   expected {expected}, sent {sent}, not sent {unsent}")?;
        writeln!(
            f,
            "           confirmed {confirmed}, refused {refused}, unconfirmed {unconfirmed}"
        )?;
        let Self { resent, reconnects, seconds, .. } = self;
        writeln!(f, "again      {resent} attempts, {reconnects} connections")?;
        writeln!(f, "time       {seconds:.3} s")?;
        self.write_rate(f)?;
        for (name, latencies) in [("from plan", self.from_plan), ("from send", self.from_send)] {
            let Latencies { mean_ms, p50_ms, p90_ms, p99_ms, p999_ms, max_ms } = latencies;
            writeln!(
                f,
                "{name}  ms: mean {mean_ms:.3}, p50 {p50_ms:.3}, p90 {p90_ms:.3}, p99 {p99_ms:.3}, \
                 p99.9 {p999_ms:.3}, max {max_ms:.3}"
            )?;
        }
        if !self.histogram.is_empty() {
            writeln!(f, "{:>12} {:>12} {:>12}", "up to ms", "from plan", "from send")?;
        }
        for Row { up_to_ms, from_plan, from_send } in &self.histogram {
            let end = up_to_ms.map_or("longer".to_owned(), |end| end.to_string());
            writeln!(f, "{end:>12} {from_plan:>12} {from_send:>12}")?;
        }
        let lists =
            [("answer", &self.answers), ("refused", &self.refusals), ("failure", &self.failures)];
        for (name, texts) in lists {
            for (text, count) in texts {
                writeln!(f, "{name:<10} {count}  {text}")?;
            }
        }
        match &self.stopped {
            Some(why) => write!(f, "stopped    {why}, exit code {}", self.exit_code),
            None => write!(f, "ended      exit code {}", self.exit_code),
        }
    }
}

impl Report {
    fn write_rate(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Some(achieved) = self.achieved_rate else { return Ok(()) };
        match (self.subject.planned_rate, self.is_rate_kept) {
            (Some(planned), Some(false)) => writeln!(
                f,
                "rate       {achieved:.3}/s; THE PLANNED RATE OF {planned:.3}/s WAS NOT KEPT"
            ),
            (Some(planned), _) => {
                writeln!(f, "rate       {achieved:.3}/s, planned {planned:.3}/s")
            }
            (None, _) => writeln!(f, "rate       {achieved:.3}/s, as fast as confirmed"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tally::{Tally, Times};

    fn subject(expected: Option<u64>, planned_rate: Option<f64>) -> RunSubject {
        RunSubject {
            target: "mqtt://127.0.0.1:1883".into(),
            protocol: "MQTT 5",
            run: "r".into(),
            seed: 1,
            devices: 2,
            expected,
            planned_rate,
        }
    }

    fn code(tally: &Tally, expected: u64) -> u8 {
        let now = Instant::now();
        Report::new(subject(Some(expected), None), &tally.snapshot(), now, None).exit_code()
    }

    #[tokio::test(start_paused = true)]
    async fn the_exit_code_tells_what_became_of_the_messages() {
        let now = Instant::now();
        let tally = Tally::default();
        tally.sent(now);
        assert_eq!(code(&tally, 1), code::UNCONFIRMED);
        tally.confirmed("PUBACK", Times { planned: now, sent: now });
        assert_eq!(code(&tally, 1), code::CONFIRMED);
        assert_eq!(code(&tally, 2), code::UNSENT);
        tally.sent(now);
        tally.refused(None, "too large".into());
        assert_eq!(code(&tally, 3), code::REFUSED);
        tally.sent(now);
        assert_eq!(code(&tally, 3), code::UNCONFIRMED);
    }

    #[tokio::test(start_paused = true)]
    async fn a_rate_that_is_not_kept_is_said() {
        let start = Instant::now();
        let tally = Tally::default();
        for _ in 0..11 {
            tally.sent(Instant::now());
            tokio::time::advance(Duration::from_millis(200)).await;
        }
        let report =
            |rate| Report::new(subject(Some(11), Some(rate)), &tally.snapshot(), start, None);

        let (kept, missed) = (report(5.0), report(10.0));

        assert_eq!((kept.is_rate_kept, missed.is_rate_kept), (Some(true), Some(false)));
        assert!((missed.achieved_rate.unwrap() - 5.0).abs() < 0.001);
        assert!(kept.to_string().contains("rate       5.000/s, planned 5.000/s"), "{kept}");
        assert!(missed.to_string().contains("OF 10.000/s WAS NOT KEPT"), "{missed}");
    }

    #[tokio::test(start_paused = true)]
    async fn the_histogram_has_each_latency_once() {
        let tally = Tally::default();
        for millis in [1, 7, 7, 300] {
            let planned = Instant::now();
            tokio::time::advance(Duration::from_millis(millis)).await;
            tally.confirmed("PUBACK", Times { planned, sent: planned });
        }

        let rows = rows(&tally.snapshot());

        let counts: Vec<_> = rows.iter().map(|row| (row.up_to_ms, row.from_send)).collect();
        let expected =
            [(1.0, 1), (2.0, 0), (5.0, 0), (10.0, 2), (20.0, 0), (50.0, 0), (100.0, 0), (200.0, 0)];
        let expected = expected.into_iter().chain([(500.0, 1)]).map(|(end, n)| (Some(end), n));
        assert_eq!(counts, expected.collect::<Vec<_>>());
    }
}
