//! Nothing is lost while the server is away, refuses, or is another one.

use std::io::Write as _;
use std::path::Path;

use e2e::names::DEAD_LETTER_REPORT;
use e2e::postgres::{Postgres as Server, USER};
use e2e::proxy::{Link, Proxy};
use e2e::small_disk::SmallDisk;
use serde_json::{Value, json};
use service::Hosted;

use crate::env::{Env, GRACE, TABLE, sent, start, until};

fn payloads(count: usize) -> Vec<Value> {
    (0..count).map(|number| json!({ "number": number })).collect()
}

/// Returns why the service is not ready. Empty if it is.
fn reason(hosted: &Hosted) -> String {
    let conditions = hosted.health().conditions();
    let away = conditions.into_iter().filter(|(_, state)| !state.ready);
    away.map(|(name, state)| format!("{name}: {}\n", state.reason)).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_killed_server_costs_no_message() {
    let mut env = Env::start().await;
    let hosted = start(env.settings()).await;
    env.publish(0, &payloads(1_000)).await;
    until(async || sent(&hosted) >= 500).await;

    env.server.kill().await.unwrap();
    env.publish(1_000, &payloads(1_000)).await;
    until(async || !hosted.health().is_ready()).await;
    assert!(!reason(&hosted).is_empty());
    env.server.start_again().await.unwrap();
    until(async || sent(&hosted) >= 2_000 && hosted.health().is_ready()).await;
    hosted.shutdown(GRACE).await.unwrap();

    assert_eq!(env.rows().await, 2_000);
}

#[tokio::test(flavor = "multi_thread")]
async fn terminated_connections_cost_no_message() {
    let env = Env::start().await;
    let hosted = start(env.settings()).await;
    let end = "SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity \
               WHERE application_name = 'dataflow-postgres'";
    let mut ended = 0;
    for part in 0..20 {
        env.publish(part * 100, &payloads(100)).await;
        ended += env.server.count(end).await.unwrap();
    }
    assert!(ended > 0);
    until(async || sent(&hosted) >= 2_000).await;
    hosted.shutdown(GRACE).await.unwrap();

    assert_eq!(env.rows().await, 2_000);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_half_open_connection_is_given_up() {
    let env = Env::start().await;
    let proxy = Proxy::start(env.server.port()).unwrap();
    let mut settings = env.settings();
    settings.postgres.port = proxy.port();
    settings.pipeline.attempt_timeout = std::time::Duration::from_secs(2);
    let hosted = start(settings).await;

    proxy.set(Link::Silent);
    env.publish(0, &payloads(500)).await;
    until(async || !hosted.health().is_ready()).await;
    proxy.set(Link::Up);
    until(async || sent(&hosted) >= 500).await;
    hosted.shutdown(GRACE).await.unwrap();

    assert_eq!(env.rows().await, 500);
}

/// Answers that are not the fault of a row, by their SQLSTATE.
const RETRIED: [&str; 7] = ["53100", "40P01", "40001", "57014", "55P03", "53200", "58030"];

#[tokio::test(flavor = "multi_thread")]
async fn what_is_not_the_fault_of_a_row_is_retried() {
    let env = Env::start().await;
    let hosted = start(env.settings()).await;
    for (index, state) in RETRIED.into_iter().enumerate() {
        env.server
            .run(&format!(
                "CREATE FUNCTION refuse() RETURNS trigger LANGUAGE plpgsql AS \
                 $$ BEGIN RAISE EXCEPTION 'not now' USING ERRCODE = '{state}'; END $$;
                 CREATE TRIGGER refuse BEFORE INSERT ON {TABLE} EXECUTE FUNCTION refuse()"
            ))
            .await
            .unwrap();
        env.publish(index, &payloads(1)).await;
        until(async || reason(&hosted).contains(&format!("SQLSTATE {state}"))).await;
        env.server.run("DROP FUNCTION refuse() CASCADE").await.unwrap();
        until(async || sent(&hosted) > index as u64).await;
    }
    hosted.shutdown(GRACE).await.unwrap();

    assert_eq!(env.rows().await, RETRIED.len() as i64);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_empty_server_in_place_of_the_old_one_takes_no_rows() {
    let mut env = Env::start().await;
    let hosted = start(env.settings()).await;
    env.publish(0, &payloads(10)).await;
    until(async || sent(&hosted) >= 10).await;

    env.server.kill().await.unwrap();
    let mut empty = env.server.start_empty_in_its_place().await.unwrap();
    env.publish(10, &payloads(10)).await;
    until(async || reason(&hosted).contains("table public.readings: it does not exist")).await;
    assert_eq!(sent(&hosted), 10);
    let tables = "SELECT count(*) FROM pg_class WHERE relname = 'readings'";
    assert_eq!(empty.count(tables).await.unwrap(), 0, "nothing hides that all rows are gone");
    empty.kill().await.unwrap();
    env.server.start_again().await.unwrap();
    until(async || sent(&hosted) >= 20).await;
    hosted.shutdown(GRACE).await.unwrap();

    assert_eq!(env.rows().await, 20);
}

/// Mounts a small disk on a folder, or prints that this is not possible.
fn small_disk(folder: &Path) -> Option<SmallDisk> {
    let mounted = SmallDisk::mount(folder, 256 << 20);
    if let Err(error) = &mounted {
        // Writes to stderr directly, because the test runner captures printed output.
        let text = format!("SKIPPED: no full disk: {error:#}\n");
        std::io::stderr().write_all(text.as_bytes()).unwrap();
    }
    mounted.ok()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_full_disk_of_the_table_costs_no_message() {
    let folder = tempfile::tempdir().unwrap();
    let Some(disk) = small_disk(folder.path()) else { return };
    let env = Env::start().await;
    env.server.add_default_tablespace(disk.folder()).await.unwrap();
    let hosted = start(env.settings()).await;
    env.publish(0, &payloads(1_000)).await;
    until(async || sent(&hosted) >= 1_000).await;

    disk.fill().unwrap();
    env.publish(1_000, &payloads(2_000)).await;
    until(async || reason(&hosted).contains("SQLSTATE 53100")).await;
    assert!(sent(&hosted) < 3_000, "nothing is acknowledged that has no room");
    disk.make_room().unwrap();
    until(async || sent(&hosted) >= 3_000 && hosted.health().is_ready()).await;
    hosted.shutdown(GRACE).await.unwrap();

    assert_eq!(env.rows().await, 3_000);
    let letters = env.cloud.pull(&env.cloud.name(DEAD_LETTER_REPORT)).await.unwrap();
    assert!(letters.is_empty(), "a full disk is the fault of no row");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_full_disk_that_ends_the_server_costs_no_message() {
    let folder = tempfile::tempdir().unwrap();
    let Some(disk) = small_disk(folder.path()) else { return };
    // The log of the server is on the small disk. Without room for it, the server ends with a panic.
    let place = disk.folder().to_owned();
    let server = Server::start_with(&["max_wal_size=64MB"], |data| {
        let (log, moved) = (data.join("pg_wal"), place.join("pg_wal"));
        for of in [&log, &log.join("archive_status")] {
            std::fs::create_dir(place.join(of.strip_prefix(data)?))?;
        }
        for file in std::fs::read_dir(&log)? {
            let file = file?;
            if file.file_type()?.is_file() {
                std::fs::copy(file.path(), moved.join(file.file_name()))?;
            }
        }
        std::fs::remove_dir_all(&log)?;
        std::os::unix::fs::symlink(&moved, &log)?;
        let chown = std::process::Command::new("chown").args(["-R", USER]).arg(&place).status()?;
        anyhow::ensure!(chown.success(), "chown: {chown}");
        Ok(())
    });
    let mut env = Env::start_with(server.await.unwrap()).await;
    let hosted = start(env.settings()).await;
    env.publish(0, &payloads(1_000)).await;
    until(async || sent(&hosted) >= 1_000).await;

    disk.fill().unwrap();
    env.publish(1_000, &payloads(1_000)).await;
    // More than the last file of the log can take.
    let filler = "CREATE TABLE filler AS SELECT repeat('x', 1000) FROM generate_series(1, 100000)";
    env.server.run(filler).await.unwrap_err();
    disk.make_room().unwrap();
    env.server.kill().await.unwrap();
    env.server.start_again().await.unwrap();
    until(async || sent(&hosted) >= 2_000 && hosted.health().is_ready()).await;
    hosted.shutdown(GRACE).await.unwrap();

    assert_eq!(env.rows().await, 2_000);
}
