//! Latency of `GET /data` over a large table of PostgreSQL, beside the same statements of a bare client.
//!
//! Both take turns in the same run, on the same server: a round of requests over HTTP, then the same
//! questions with tokio-postgres alone.

use std::fmt;
use std::time::{Duration, Instant, SystemTime};

use anyhow::{Context as _, ensure};
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use clap::Parser;
use e2e::postgres::{DATABASE, Postgres, USER};
use e2e::process::{Process, free_port};
use postgres::config::{DayPartitions, TableSettings};
use postgres::statements::Statements;
use rows::column::{Column, Kind};
use rows::{Mapped, Rows as _};
use serde_json::{Value, json};
use tokio_postgres::Client;
use tokio_postgres::types::ToSql;

/// Sources of the rows.
const SOURCES: u64 = 1_000;
/// Rows of a second.
const ROWS_PER_SECOND: u64 = 10;
/// Time of the first row, in seconds since 1970-01-01.
const START: u64 = 1_749_945_600;
/// Requests before the measurement, after which every statement is prepared.
const WARM_UP: u64 = 50;
/// Requests of a round.
const ROUND: u64 = 100;

/// Measures query with a large table of PostgreSQL.
#[derive(Debug, Clone, Parser)]
pub(crate) struct QueryArgs {
    /// Rows of the table.
    #[arg(long, default_value_t = 1_000_000)]
    rows: u64,
    /// Requests of each case.
    #[arg(long, default_value_t = 2_000)]
    requests: u64,
    /// Measure a table with a partition for each day.
    #[arg(long)]
    partitions: bool,
    /// Measure the binaries in the folder of this one, without a build.
    #[arg(long)]
    pub(crate) no_build: bool,
}

/// Kind of a question.
#[derive(Debug, Clone, Copy)]
enum Question {
    FirstPage,
    Source,
    SourceAndHour,
    Place,
    ThousandRows,
}

const QUESTIONS: [Question; 5] = [
    Question::FirstPage,
    Question::Source,
    Question::SourceAndHour,
    Question::Place,
    Question::ThousandRows,
];

impl fmt::Display for Question {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::FirstPage => "first 100 rows",
            Self::Source => "100 rows of a source",
            Self::SourceAndHour => "a source in an hour",
            Self::Place => "100 rows after a token",
            Self::ThousandRows => "1000 rows of a span",
        })
    }
}

/// A question as parameters of the API, and as values of the statement.
struct Asked {
    parameters: Vec<(&'static str, String)>,
    values: Vec<Box<dyn ToSql + Sync + Send>>,
}

impl Question {
    /// Returns the question with this number. The numbers lead all over the table.
    fn asked(self, number: u64, rows: u64) -> Asked {
        let row = number.wrapping_mul(7_919_317) % rows;
        let source = format!("device-{:05}", row % SOURCES);
        let (second, limit) =
            (row / ROWS_PER_SECOND, if matches!(self, Self::ThousandRows) { 1_000 } else { 100 });
        let at = |second: u64| SystemTime::UNIX_EPOCH + Duration::from_secs(START + second);
        let mut parameters = vec![("limit", limit.to_string())];
        let mut values: Vec<Box<dyn ToSql + Sync + Send>> = Vec::new();
        if matches!(self, Self::Source | Self::SourceAndHour) {
            parameters.push(("source_id", source.clone()));
            values.push(Box::new(source));
        }
        if matches!(self, Self::SourceAndHour | Self::ThousandRows) {
            parameters.push(("start_time", rfc3339(second)));
            parameters.push(("end_time", rfc3339(second + 3_600)));
            values.push(Box::new(at(second)));
            values.push(Box::new(at(second + 3_600)));
        }
        if matches!(self, Self::Place) {
            let micros = (START + second) * 1_000_000;
            let place = json!({ "t": micros, "i": id(row) });
            parameters.push(("next", URL_SAFE_NO_PAD.encode(place.to_string())));
            values.push(Box::new(at(second)));
            values.push(Box::new(id(row)));
        }
        values.push(Box::new(limit + 1_i64));
        values.push(Box::new(0_i64));
        Asked { parameters, values }
    }
}

fn id(row: u64) -> String {
    format!("{row:012}")
}

/// Writes a time as PostgreSQL and the API read it.
fn rfc3339(second: u64) -> String {
    let time = i64::try_from(START + second).unwrap_or(i64::MAX);
    let time = time::OffsetDateTime::from_unix_timestamp(time);
    let format = &time::format_description::well_known::Rfc3339;
    time.ok().and_then(|time| time.format(format).ok()).unwrap_or_default()
}

pub(crate) async fn measure(args: &QueryArgs) -> anyhow::Result<()> {
    let server = Postgres::start_with(&["shared_buffers=512MB"], |_| Ok(())).await?;
    fill(&server, args).await.context("fill the table")?;
    let folder = tempfile::tempdir().context("create a folder")?;
    let port = free_port()?;
    let mut process = Process::start_in(folder.path(), "query", &settings(&server, port))?;
    process.ready().await.context("start query")?;
    let env = QueryEnv {
        url: format!("http://127.0.0.1:{port}/data"),
        http: reqwest::Client::new(),
        bare: server.client().await?,
    };
    println!("{} rows; milliseconds\n{HEAD}", args.rows);
    for question in QUESTIONS {
        let (ours, bare) =
            env.compare(question, args).await.with_context(|| question.to_string())?;
        println!("{question:<24}{ours}{bare}");
    }
    process.terminate().await.map(drop)
}

const HEAD: &str = "question                  query p50     p99    bare p50     p99";

fn settings(server: &Postgres, port: u16) -> Value {
    json!({
        "api": { "port": port },
        "http": { "host": "127.0.0.1" },
        "postgres": {
            "host": "127.0.0.1", "port": server.port(), "user": USER, "database": DATABASE,
            "sslmode": "disable",
        },
        "table": { "name": "readings", "source_column": "device_id" },
    })
}

/// Creates the table as postgres does, and fills it.
async fn fill(server: &Postgres, args: &QueryArgs) -> anyhow::Result<()> {
    let table = TableSettings {
        name: "readings".into(),
        source_column: Some("device_id".into()),
        partition_by_day: args.partitions.then(DayPartitions::default),
        ..TableSettings::default()
    };
    let columns =
        [Column::new("device_id", Kind::String), Column::new("temperature", Kind::Float64)];
    let columns = Mapped::new(&columns, true, Some("rest")).columns();
    let mut statements = Statements::new(&table, &columns)?.create();
    if args.partitions {
        let days = args.rows / ROWS_PER_SECOND / 86_400 + 1;
        statements.extend((0..days).map(|day| {
            let bound = |day: u64| format!("to_timestamp({})", START + day * 86_400);
            format!(
                "DO $$ BEGIN EXECUTE format('CREATE TABLE readings_{day} PARTITION OF readings FOR \
                 VALUES FROM (%L) TO (%L)', {}, {}); END $$",
                bound(day),
                bound(day + 1)
            )
        }));
    }
    statements.push(format!(
        "INSERT INTO readings (message_id, publish_time, ingest_id, device_id, temperature, rest) \
         SELECT n::text, to_timestamp({START} + n / {ROWS_PER_SECOND}), lpad(n::text, 12, '0'), \
         'device-' || lpad((n % {SOURCES})::text, 5, '0'), n % 50, '{{\"humidity\": 40}}' \
         FROM generate_series(0, {} - 1) n",
        args.rows
    ));
    statements.push("VACUUM ANALYZE readings".into());
    for statement in statements {
        server.run(&statement).await?;
    }
    Ok(())
}

struct QueryEnv {
    url: String,
    http: reqwest::Client,
    bare: Client,
}

/// Latencies of one side.
#[derive(Debug, Default)]
struct Latencies(Vec<Duration>);

impl fmt::Display for Latencies {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut sorted = self.0.clone();
        sorted.sort_unstable();
        let at = |percent: usize| {
            let index = (sorted.len() * percent / 100).min(sorted.len().saturating_sub(1));
            sorted.get(index).map_or(0.0, |latency| latency.as_secs_f64() * 1e3)
        };
        write!(f, "{:>12.2}{:>8.2}", at(50), at(99))
    }
}

impl QueryEnv {
    /// Asks both sides the same questions, in turns.
    async fn compare(
        &self,
        question: Question,
        args: &QueryArgs,
    ) -> anyhow::Result<(Latencies, Latencies)> {
        let count = question.asked(0, args.rows).values.len();
        let mut statement = None;
        for number in 0.. {
            self.ask(question.asked(number, args.rows)).await?;
            // A check of the service may have used the connection in between.
            statement = self.last_statement(count).await?.or(statement);
            if number >= WARM_UP && statement.is_some() {
                break;
            }
        }
        let statement = statement.context("find the statement of query")?;
        let statement = self.bare.prepare(&statement).await?;
        let (mut ours, mut bare) = (Latencies::default(), Latencies::default());
        for round in 0..args.requests.div_ceil(ROUND) {
            let numbers = round * ROUND..args.requests.min((round + 1) * ROUND);
            for number in numbers.clone() {
                let asked = question.asked(WARM_UP + number, args.rows);
                let started = Instant::now();
                self.ask(asked).await?;
                ours.0.push(started.elapsed());
            }
            for number in numbers {
                let asked = question.asked(WARM_UP + number, args.rows);
                let values: Vec<_> =
                    asked.values.iter().map(|value| &**value as &(dyn ToSql + Sync)).collect();
                let started = Instant::now();
                let rows = self.bare.query(&statement, &values).await?;
                ensure!(!rows.is_empty(), "the bare client found no rows");
                bare.0.push(started.elapsed());
            }
        }
        Ok((ours, bare))
    }

    async fn ask(&self, asked: Asked) -> anyhow::Result<()> {
        let url = reqwest::Url::parse_with_params(&self.url, &asked.parameters)?;
        let answer = self.http.get(url).send().await?.error_for_status()?;
        let body = answer.bytes().await?;
        ensure!(!body.starts_with(b"{\"data\":[]"), "query found no rows");
        Ok(())
    }

    /// Returns the statement of the last request, so that the bare client sends the same one. It has
    /// this number of parameters. The service's own checks may have another one.
    async fn last_statement(&self, count: usize) -> anyhow::Result<Option<String>> {
        let last = format!(
            "SELECT query FROM pg_stat_activity WHERE application_name = 'dataflow-query' \
             AND query LIKE 'SELECT to_jsonb%OFFSET ${count}' ORDER BY state_change DESC LIMIT 1"
        );
        Ok(self.bare.query_opt(&last, &[]).await?.map(|row| row.get(0)))
    }
}
