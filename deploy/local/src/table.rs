//! What people see: where everything is, the live table, and the account.

use std::fmt::Write as _;
use std::io::{IsTerminal as _, Write as _};
use std::time::Duration;

use e2e::account::Account;
use e2e::fleet::Log;
use serde::Serialize;

use crate::args::Args;
use crate::metrics::Scrape;
use crate::platform::{BUCKET, DATASET, PROJECT, Platform, Stage, VIEW};

/// An account with its times, as the report has it.
#[derive(Debug, Serialize)]
pub(crate) struct Report {
    #[serde(flatten)]
    pub account: Account,
    /// From the first message until all were accounted for.
    pub elapsed_seconds: f64,
    /// Archived messages in that time.
    pub messages_per_second: f64,
}

/// Prints where everything is.
pub(crate) fn print_places(args: &Args, platform: &Platform) {
    let port = args.mqtt_port;
    let data = platform.data_dir.display();
    println!("MQTT        mqtt://127.0.0.1:{port}  ({})", platform.broker.name());
    println!(
        "cloud       {}  (Pub/Sub, Firestore, BigQuery, Cloud Storage)",
        platform.emulator.url()
    );
    match &platform.redis {
        Some(redis) => println!("cache       memory, {}, Firestore", redis.url()),
        None => println!("cache       memory, Firestore  (no redis-server on the PATH)"),
    }
    for stage in &platform.stages {
        println!("{:<11} http://{}/status", stage.name, stage.hosted.address());
    }
    println!("data        {data}  (and the services' settings)");
    println!();
    println!("Send a message of your own:");
    println!("  mosquitto_pub -p {port} -q 1 -t devices/abc/up -m '{{\"temperature\":21.5}}'");
    let cloud = platform.emulator.url();
    println!("See where it went (in the table at once, in a file a few seconds later):");
    println!("  curl -s {cloud}/bigquery/v2/projects/{PROJECT}/queries --json \\");
    println!(
        "    '{{\"query\":\"SELECT * FROM {DATASET}.{VIEW} WHERE device_id = \\\"abc\\\"\"}}'"
    );
    println!("  zcat {data}/storage/{BUCKET}/*/*/*/*/*.gz | grep '\"device_id\":\"abc\"'");
    println!("Ask a service's tools what would become of one, or look at what was refused:");
    println!(
        "  echo '{{\"temperature\":\"warm\"}}' | cargo run -q --bin ingestion -- explain devices/abc/up --config {data}/settings/ingestion.yaml"
    );
    println!(
        "  cargo run -q --bin bigqueries -- dead-letters list --config {data}/settings/bigqueries.yaml"
    );
    println!();
}

/// A table that is printed again and again.
#[derive(Debug, Default)]
pub(crate) struct Table {
    lines: usize,
    last: Vec<u64>,
}

impl Table {
    /// Prints the table, over the one before on a terminal.
    pub(crate) fn print(&mut self, stages: &[Stage], log: &Log, since_last: Duration) {
        let mut text = String::new();
        let seconds = since_last.as_secs_f64().max(0.001);
        let sent = log.acknowledged_count();
        self.last.resize(stages.len() + 1, 0);
        let rate = |now: u64, last: u64| (now.saturating_sub(last) as f64 / seconds) as u64;
        line(&mut text, ["stage", "received", "sent", "rate/s", "waiting", "dead", "p50", "p99"]);
        let waiting = log.sent_count().saturating_sub(sent);
        let fleet =
            [log.sent_count(), sent, rate(sent, self.last[0]), waiting, 0].map(|n| n.to_string());
        let [received, acknowledged, speed, waiting, dead] = &fleet;
        line(&mut text, ["devices", received, acknowledged, speed, waiting, dead, "", ""]);
        self.last[0] = sent;
        for (index, stage) in stages.iter().enumerate() {
            let scrape = stage.scrape();
            let sent = scrape.pipeline("sent_messages_total");
            row(&mut text, stage.name, &scrape, rate(sent, self.last[index + 1]));
            self.last[index + 1] = sent;
        }
        self.show(&text);
    }

    fn show(&mut self, text: &str) {
        let mut out = std::io::stdout().lock();
        let back = if out.is_terminal() && self.lines > 0 {
            format!("\x1b[{}A\x1b[J", self.lines)
        } else {
            String::new()
        };
        self.lines = text.lines().count();
        // A closed standard output is no reason to stop the platform.
        out.write_all(back.as_bytes())
            .and_then(|()| out.write_all(text.as_bytes()))
            .unwrap_or_default();
        out.flush().unwrap_or_default();
    }
}

fn row(text: &mut String, name: &str, scrape: &Scrape, rate: u64) {
    let value = |name: &str| scrape.pipeline(name).to_string();
    let age = |share| {
        scrape.age(share).map_or_else(|| "-".to_owned(), |age| format!("{:.0} ms", age * 1e3))
    };
    line(
        text,
        [
            name,
            &value("received_messages_total"),
            &value("sent_messages_total"),
            &rate.to_string(),
            &value("in_flight_messages"),
            &value("dead_lettered_messages_total"),
            &age(0.5),
            &age(0.99),
        ],
    );
}

fn line(text: &mut String, cells: [&str; 8]) {
    let [name, rest @ ..] = cells;
    // Writing to a string cannot fail.
    write!(text, "{name:<10}").unwrap_or_default();
    rest.iter().for_each(|cell| write!(text, "{cell:>12}").unwrap_or_default());
    text.push('\n');
}

/// Prints the account.
pub(crate) fn print_report(report: &Report) {
    let account = &report.account;
    let rows = [
        ("sent", account.sent),
        ("acknowledged", account.acknowledged),
        ("rows", account.rows),
        ("archived", account.archived),
        ("dead letters", account.dead_letters),
        ("missing", account.missing),
        ("corrupted", account.corrupted),
        ("duplicates", account.duplicates),
    ];
    println!();
    rows.iter().for_each(|(name, value)| println!("{name:<14}{value:>12}"));
    println!("{:<14}{:>12.1}", "seconds", report.elapsed_seconds);
    println!("{:<14}{:>12.0}", "messages/s", report.messages_per_second);
    let verdict = if account.is_clean() {
        "every message is accounted for"
    } else {
        "messages are missing or corrupted"
    };
    println!("\n{verdict}");
}
