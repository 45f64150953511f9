//! Runs local mode as a program, with few messages.

#![expect(clippy::unwrap_used, reason = "a failed step fails the test")]

use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::process::{Output, Stdio};
use std::time::Duration;

use e2e::archive::Line;
use e2e::process::{binary, free_port};
use serde_json::Value;
use tempfile::TempDir;
use tokio::io::{AsyncBufReadExt as _, BufReader, Lines};
use tokio::process::{Child, ChildStdout, Command};
use tokio::time::{sleep, timeout};

/// Longest wait for a line of the output, or for the end.
const PATIENCE: Duration = Duration::from_secs(180);

/// Local mode as a process. Dropping it kills the process.
struct Run {
    process: Child,
    output: Lines<BufReader<ChildStdout>>,
    said: String,
}

impl Run {
    fn start(options: &[&str]) -> Self {
        let mut command = Command::new(env!("CARGO_BIN_EXE_dataflow"));
        command.args(["--cloud-port=0", "--http-port=0", "--ingest-port=0"]).args(options);
        command.stdout(Stdio::piped()).stderr(Stdio::inherit()).kill_on_drop(true);
        let mut process = command.spawn().unwrap();
        let output = BufReader::new(process.stdout.take().unwrap()).lines();
        Self { process, output, said: String::new() }
    }

    /// Reads the output up to a line that begins like this, and returns its second word.
    async fn address(&mut self, name: &str) -> String {
        loop {
            let line = timeout(PATIENCE, self.output.next_line()).await.unwrap().unwrap();
            let line = line.unwrap_or_else(|| panic!("no {name} in {}", self.said));
            self.said.push_str(&line);
            self.said.push('\n');
            if line.starts_with(name) {
                return line.split_whitespace().nth(1).unwrap().to_owned();
            }
        }
    }

    /// Reads the rest of the output, and requires success.
    async fn end(mut self) -> String {
        while let Some(line) = timeout(PATIENCE, self.output.next_line()).await.unwrap().unwrap() {
            self.said.push_str(&line);
            self.said.push('\n');
        }
        let status = timeout(PATIENCE, self.process.wait()).await.unwrap().unwrap();
        assert!(status.success(), "{status}\n{}", self.said);
        self.said
    }

    async fn interrupt(&self) {
        let id = self.process.id().unwrap().to_string();
        let sent = Command::new("kill").args(["-INT", &id]).status().await.unwrap();
        assert!(sent.success());
    }
}

/// Makes a folder that the user of PostgreSQL can reach.
fn folder() -> TempDir {
    let folder = tempfile::tempdir().unwrap();
    std::fs::set_permissions(folder.path(), std::fs::Permissions::from_mode(0o755)).unwrap();
    folder
}

/// Runs the profile engine in a folder until this number of messages is accounted for.
async fn engine(folder: &Path, messages: u64) -> (String, Value) {
    let report = folder.join("report.json");
    let options = [
        "--profile=engine",
        "--query-port=0",
        "--once",
        "--devices=7",
        &format!("--messages={messages}"),
        &format!("--report={}", report.display()),
        &format!("--data-dir={}", folder.join("data").display()),
    ];
    let said = Run::start(&options).end().await;
    (said, serde_json::from_slice(&std::fs::read(&report).unwrap()).unwrap())
}

#[tokio::test]
async fn the_profile_engine_makes_one_row_of_each_message_over_http() {
    let folder = folder();

    let (said, first) = engine(folder.path(), 300).await;
    // Rows of an earlier run in the same folder do not count.
    let (_, second) = engine(folder.path(), 40).await;

    for (report, messages) in [(first, 300), (second, 40)] {
        for name in ["sent", "acknowledged", "rows"] {
            assert_eq!(report[name], messages, "{name}: {report}");
        }
        for name in ["missing", "corrupted", "invented", "duplicates", "dead_letters"] {
            assert_eq!(report[name], 0, "{name}: {report}");
        }
        assert_eq!(report["problems"], serde_json::json!([]));
    }
    for line in ["HTTP  ", "Query  ", "Rows  ", "Cloud  ", "every message is accounted for"] {
        assert!(said.lines().any(|said| said.starts_with(line)), "{line}: {said}");
    }
}

/// Run of the README that ends by itself, with fewer messages and devices, and on free ports.
#[tokio::test]
async fn each_message_of_a_first_run_is_in_the_table_and_in_the_archive() {
    let folder = folder();
    let report = folder.path().join("report.json");
    let options = [
        "--messages=2000",
        "--once",
        &format!("--mqtt-port={}", free_port().unwrap()),
        &format!("--report={}", report.display()),
        &format!("--data-dir={}", folder.path().join("data").display()),
    ];

    let said = Run::start(&options).end().await;

    let report: Value = serde_json::from_slice(&std::fs::read(&report).unwrap()).unwrap();
    for name in ["sent", "acknowledged"] {
        assert_eq!(report[name], 2000, "{name}: {report}");
    }
    for name in ["missing", "corrupted", "invented", "dead_letters"] {
        assert_eq!(report[name], 0, "{name}: {report}");
    }
    let [rows, archived, duplicates] =
        ["rows", "archived", "duplicates"].map(|name| report[name].as_u64().unwrap());
    assert!(rows >= 2000 && archived >= 2000, "{report}");
    assert_eq!(rows + archived - duplicates, 4000, "{report}");
    for line in ["Live  ", "MQTT  ", "HTTP  ", "Cloud  ", "every message is accounted for"] {
        assert!(said.lines().any(|said| said.starts_with(line)), "{line}: {said}");
    }
}

#[tokio::test]
async fn local_mode_takes_messages_over_http_too() {
    let folder = folder();
    let mqtt = format!("--mqtt-port={}", free_port().unwrap());
    let data = format!("--data-dir={}", folder.path().join("data").display());
    let mut run = Run::start(&["--messages=20", "--broker=built-in", &mqtt, &data]);
    let url = run.address("HTTP  ").await;
    let cloud = run.address("Cloud  ").await;
    let client = reqwest::Client::builder().no_proxy().build().unwrap();

    let item = r#"{"sourceId":"abc","payload":{"temperature":21.5}}"#;
    let post = client.post(&url).header("content-type", "application/json").body(item);
    let answer = post.send().await.unwrap();
    let status = answer.status();
    run.interrupt().await;
    let said = run.end().await;

    assert!(url.ends_with("/ingest"), "{url}");
    assert_eq!(status, 202, "{}", answer.text().await.unwrap());
    assert!(said.contains("every message is accounted for"), "{said}");
    assert!(cloud.starts_with("http://"), "{cloud}");
    let rows = said.lines().find(|line| line.starts_with("rows ")).unwrap();
    // Those of the devices, and the one over HTTP.
    assert_eq!(rows.split_whitespace().nth(1), Some("21"), "{said}");
}

/// Reads the first state of the live page.
async fn state(client: &reqwest::Client, page: &str) -> Value {
    let mut answer = client.get(format!("{page}/live/state")).send().await.unwrap();
    let mut text = String::new();
    loop {
        let chunk = timeout(PATIENCE, answer.chunk()).await.unwrap().unwrap().unwrap();
        text.push_str(std::str::from_utf8(&chunk).unwrap());
        let event = text.split_once("\n\n").map(|(event, _)| event);
        let data =
            event.and_then(|event| event.lines().find_map(|line| line.strip_prefix("data: ")));
        if let Some(data) = data {
            return serde_json::from_str(data).unwrap();
        }
    }
}

/// Waits until the page shows this many dead letters, and returns them.
async fn dead_letters(client: &reqwest::Client, page: &str, count: usize) -> Vec<Value> {
    let shown = async {
        loop {
            let state = state(client, page).await;
            let recent = state["dead_letters"]["recent"].as_array().unwrap().clone();
            if recent.len() >= count {
                return recent;
            }
        }
    };
    timeout(PATIENCE, shown).await.unwrap()
}

#[tokio::test]
async fn a_dead_letter_of_the_profile_engine_is_replayed_from_the_page() {
    let folder = folder();
    let data = format!("--data-dir={}", folder.path().join("data").display());
    let mut run = Run::start(&["--profile=engine", "--query-port=0", "--messages=5", &data]);
    let page = run.address("Live  ").await;
    let url = run.address("HTTP  ").await;
    let client = reqwest::Client::builder().no_proxy().build().unwrap();

    let item = r#"{"sourceId":"abc","payload":{"temperature":"warm"}}"#;
    let post = client.post(&url).header("content-type", "application/json").body(item);
    assert_eq!(post.send().await.unwrap().status(), 202);
    let first = dead_letters(&client, &page, 1).await;
    let id = first[0]["id"].as_str().unwrap();
    let replay = client.post(format!("{page}/live/dead-letters/{id}/replay"));
    let answer = replay.send().await.unwrap();
    let status = answer.status();
    assert_eq!(status, 200, "{}", answer.text().await.unwrap());
    // It is refused again, which is another dead letter.
    let both = dead_letters(&client, &page, 2).await;
    run.interrupt().await;
    run.end().await;

    assert_eq!((&both[0]["stage"], &both[1]["stage"]), (&"postgres".into(), &"postgres".into()));
    assert_ne!(both[0]["id"], both[1]["id"]);
}

/// Texts of the README's section "See".
mod see {
    /// Payload of the message that becomes a row.
    pub(super) const READING: &str = r#"{"temperature":21.5}"#;
    /// Payload of the message that becomes a dead letter.
    pub(super) const REFUSED: &str = r#"{"temperature":"warm"}"#;
    /// Body of the query for the row.
    pub(super) const QUERY: &str = r#"{"query":"SELECT device_id, location, temperature, rest FROM dataflow.readings_once WHERE device_id = \"abc\""}"#;
    /// Command that finds the line in the archive.
    pub(super) const FIND: &str = r#"find -L data/latest/storage/archive -name '*.gz' | xargs zcat | grep '"device_id":"abc"'"#;
    /// Arguments of bigqueries that list the dead letter.
    pub(super) const LIST: &str = "dead-letters list --config data/latest/settings/bigqueries.yaml";
}

/// Publishes a payload as the device `abc`, and waits for its PUBACK. The README does it with
/// mosquitto_pub, which is not on every machine.
async fn publish(port: &str, payload: &str) {
    let (broker, template) = (format!("mqtt://127.0.0.1:{port}"), format!("--template={payload}"));
    let mut load = Command::new(binary("load").unwrap());
    load.args([&broker, &template]);
    // Both brokers of local mode know this version.
    load.args(["--topic=devices/abc/up", "--devices=1", "--messages=1", "--mqtt=3.1.1"]);
    let ended = output(&mut load).await;
    assert!(ended.status.success(), "{}", String::from_utf8_lossy(&ended.stderr));
}

/// Runs a command to its end.
async fn output(command: &mut Command) -> Output {
    command.stdin(Stdio::null()).kill_on_drop(true);
    timeout(PATIENCE, command.output()).await.unwrap().unwrap()
}

/// Asks until there is an answer.
async fn answer<T>(mut ask: impl AsyncFnMut() -> Option<T>) -> T {
    let asked = async {
        loop {
            match ask().await {
                Some(answer) => return answer,
                None => sleep(Duration::from_millis(50)).await,
            }
        }
    };
    timeout(PATIENCE, asked).await.unwrap()
}

#[tokio::test]
async fn a_newcomer_sees_a_row_a_line_and_a_dead_letter_as_the_readme_says() {
    let readme = include_str!("../../../README.md");
    let sent = |payload| format!("mosquitto_pub -q 1 -t devices/abc/up -m '{payload}'");
    let list = format!("cargo run --bin bigqueries -- {}", see::LIST);
    for typed in [&*sent(see::READING), &sent(see::REFUSED), see::QUERY, see::FIND, &list] {
        assert!(readme.contains(typed), "the README has no {typed}");
    }
    let folder = folder();
    let data = folder.path().join("data").display().to_string();
    let here = |typed: &str| typed.replace("data/latest", &data);
    let port = free_port().unwrap().to_string();
    let options = ["--messages=20", &format!("--mqtt-port={port}"), &format!("--data-dir={data}")];
    let mut run = Run::start(&options);
    let queries = run.address("Cloud  ").await + "/bigquery/v2/projects/local/queries";
    let client = reqwest::Client::builder().no_proxy().build().unwrap();

    publish(&port, see::READING).await;
    let row = answer(async || {
        let asked = client.post(&queries).header("content-type", "application/json");
        let answer: Value = asked.body(see::QUERY).send().await.unwrap().json().await.unwrap();
        // The view comes with the table, and the row some time later.
        answer["rows"][0]["f"].as_array().cloned()
    })
    .await;
    let line = answer(async || {
        let found = output(Command::new("sh").args(["-c", &here(see::FIND)])).await;
        String::from_utf8(found.stdout).unwrap().lines().next().map(str::to_owned)
    })
    .await;
    publish(&port, see::REFUSED).await;
    let dead_letter = answer(async || {
        let mut list = Command::new(binary("bigqueries").unwrap());
        let listed = output(list.args(here(see::LIST).split(' '))).await;
        let listed = String::from_utf8(listed.stdout).unwrap();
        listed.lines().find(|line| line.contains("  abc  ")).map(str::to_owned)
    })
    .await;
    run.interrupt().await;
    let said = run.end().await;

    let [device, location, temperature, _] = &*row else { panic!("{row:?}") };
    assert_eq!((&device["v"], &location["v"]), (&"abc".into(), &Value::Null));
    assert_eq!(temperature["v"].to_string().trim_matches('"').parse(), Ok(21.5));
    let line: Line = serde_json::from_str(&line).unwrap();
    assert_eq!(line.payload().unwrap(), see::READING.as_bytes());
    assert!(dead_letter.contains("  row_type_mismatch  "), "{dead_letter}");
    assert!(said.contains("every message is accounted for"), "{said}");
}
