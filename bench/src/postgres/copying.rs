//! The statement of postgres beside COPY into a temporary table and a merge, with the same rows.

use std::time::{Duration, Instant};

use anyhow::Context as _;
use e2e::postgres::Postgres;
use e2e::usage::cpu_time;
use futures::pin_mut;
use tokio_postgres::Client;
use tokio_postgres::binary_copy::BinaryCopyInWriter;
use tokio_postgres::types::{ToSql, Type};

use super::SERVER;

/// Rows of a batch: few, as at a usual load, and the most of the default settings.
const BATCHES: [usize; 2] = [500, 5_000];
/// Columns of the table, with the types of the arrays.
const COLUMNS: [(&str, Type, Type); 4] = [
    ("ingest_id", Type::TEXT, Type::TEXT_ARRAY),
    ("device_id", Type::TEXT, Type::TEXT_ARRAY),
    ("temperature", Type::FLOAT8, Type::FLOAT8_ARRAY),
    ("rest", Type::TEXT, Type::TEXT_ARRAY),
];
const TABLE: &str =
    "ingest_id text PRIMARY KEY, device_id text, temperature double precision, rest text";
const INSERT: &str = "INSERT INTO written SELECT * FROM unnest($1::text[], $2::text[], $3::float8[], \
     $4::text[]) ON CONFLICT (ingest_id) DO NOTHING";
const COPY: &str = "COPY staged FROM STDIN BINARY";
const MERGE: &str = "INSERT INTO written SELECT * FROM staged ON CONFLICT (ingest_id) DO NOTHING";
/// Length of the text in each row.
const REST_BYTES: usize = 900;

/// Method by which a batch is written.
#[derive(Debug, Clone, Copy)]
enum Method {
    Statement,
    Copy,
}

/// Rows of a batch, by column.
struct Columns {
    ids: Vec<String>,
    devices: Vec<String>,
    temperatures: Vec<f64>,
    rests: Vec<String>,
}

/// Cost of one method.
#[derive(Debug, Clone, Copy)]
struct Cost {
    rows_per_second: f64,
    cpu_us_per_row: f64,
}

/// Measures both ways at each size of a batch, and prints the medians.
pub(super) async fn measure(rows: u64, repeats: usize) -> anyhow::Result<()> {
    println!("{:<22}{:>12}{:>21}", "one connection", "rows a s", "client CPU us a row");
    for size in BATCHES {
        let (mut statement, mut copy) = (Vec::new(), Vec::new());
        for _ in 0..repeats {
            // Each method has a server of its own, so neither pays for the rows of the other.
            statement.push(cost(Method::Statement, rows, size).await?);
            copy.push(cost(Method::Copy, rows, size).await?);
        }
        let (statement, copy) = (median(statement), median(copy));
        for (name, cost) in [("statement", statement), ("COPY and merge", copy)] {
            let Cost { rows_per_second, cpu_us_per_row } = cost;
            println!(
                "{:<22}{rows_per_second:>12.0}{cpu_us_per_row:>21.1}",
                format!("{name}, {size}")
            );
        }
        let gain = copy.rows_per_second / statement.rows_per_second;
        println!("COPY writes {gain:.2} times the rows of the statement at {size} rows a batch");
    }
    Ok(())
}

fn median(mut costs: Vec<Cost>) -> Cost {
    costs.sort_by(|one, other| one.rows_per_second.total_cmp(&other.rows_per_second));
    costs[costs.len() / 2]
}

async fn cost(method: Method, rows: u64, size: usize) -> anyhow::Result<Cost> {
    let server = Postgres::start_with(&SERVER, |_| Ok(())).await?;
    server.run(&format!("CREATE TABLE written ({TABLE})")).await?;
    let client = server.client().await?;
    let staged = format!("CREATE TEMP TABLE staged ({TABLE}) ON COMMIT DELETE ROWS");
    client.batch_execute(&staged.replace(" PRIMARY KEY", "")).await?;
    let pid = std::process::id();
    let (mut taken, mut cpu) = (Duration::ZERO, Duration::ZERO);
    let mut first = 0;
    while first < rows {
        let batch = Columns::new(first, size);
        let (started, before) = (Instant::now(), cpu_time(pid)?);
        match method {
            Method::Statement => insert(&client, &batch).await?,
            Method::Copy => copy(&client, &batch).await?,
        }
        taken += started.elapsed();
        cpu += cpu_time(pid)? - before;
        first += size as u64;
    }
    let written = server.count("SELECT count(*) FROM written").await?;
    anyhow::ensure!(written.unsigned_abs() == first, "there are {written} rows of {first}");
    let rows_per_second = first as f64 / taken.as_secs_f64();
    Ok(Cost { rows_per_second, cpu_us_per_row: cpu.as_secs_f64() * 1e6 / first as f64 })
}

impl Columns {
    fn new(first: u64, size: usize) -> Self {
        let numbers = || (first..).take(size);
        // Ids are in no order, as hashes of devices' own ids are.
        let id = |number: u64| {
            format!("{:016x}{number:016x}", number.wrapping_mul(6_364_136_223_846_793_005))
        };
        Self {
            ids: numbers().map(id).collect(),
            devices: numbers().map(|number| format!("device-{:05}", number % 100)).collect(),
            temperatures: numbers().map(|number| number as f64 / 7.0).collect(),
            rests: numbers().map(|number| format!("{number:0REST_BYTES$}")).collect(),
        }
    }
}

async fn insert(client: &Client, batch: &Columns) -> anyhow::Result<()> {
    let types = COLUMNS.map(|(_, _, array)| array);
    let statement = client.prepare_typed(INSERT, &types).await.context("prepare the statement")?;
    let Columns { ids, devices, temperatures, rests } = batch;
    client.execute(&statement, &[ids, devices, temperatures, rests]).await.context("insert")?;
    Ok(())
}

async fn copy(client: &Client, batch: &Columns) -> anyhow::Result<()> {
    client.batch_execute("BEGIN").await?;
    let sink = client.copy_in(COPY).await.context("begin COPY")?;
    let writer = BinaryCopyInWriter::new(sink, &COLUMNS.map(|(_, one, _)| one));
    pin_mut!(writer);
    for row in 0..batch.ids.len() {
        let values: [&(dyn ToSql + Sync); 4] =
            [&batch.ids[row], &batch.devices[row], &batch.temperatures[row], &batch.rests[row]];
        writer.as_mut().write(&values).await?;
    }
    writer.finish().await.context("end COPY")?;
    client.execute(MERGE, &[]).await.context("merge")?;
    client.batch_execute("COMMIT").await.context("commit")
}
