//! Starts Google's own emulators, if their Debian packages are installed.

use std::io::{BufRead as _, BufReader, Write as _};
use std::net::TcpListener;
use std::process::{Child, Command, Stdio};
use std::sync::Mutex;
use std::time::Duration;

use tokio::time::{sleep, timeout};

/// One of Google's emulators.
pub(crate) struct Theirs {
    package: &'static str,
    /// Class to start; `None` starts the main class of the archive.
    class: Option<&'static str>,
    running: Mutex<Option<(String, Child)>>,
}

#[allow(dead_code, reason = "each suite uses one of them")]
pub(crate) static PUBSUB: Theirs = Theirs::of("google-cloud-cli-pubsub-emulator", None);
#[allow(dead_code, reason = "each suite uses one of them")]
pub(crate) static FIRESTORE: Theirs = Theirs::of(
    "google-cloud-cli-firestore-emulator",
    Some("com.google.cloud.datastore.emulator.firestore.CloudFirestore"),
);

impl Theirs {
    const fn of(package: &'static str, class: Option<&'static str>) -> Self {
        Self { package, class, running: Mutex::new(None) }
    }
}

/// Starts an emulator once for this process, and returns its URL. If it is not installed, prints
/// that and returns `None`.
///
/// The emulator ends together with this process, even if that is killed.
pub(crate) async fn start(theirs: &Theirs) -> Option<String> {
    let url = {
        let mut running = theirs.running.lock().unwrap();
        match &*running {
            Some((url, _)) => url.clone(),
            None => running.insert(launch(theirs)?).0.clone(),
        }
    };
    timeout(Duration::from_secs(60), async {
        while reqwest::get(&url).await.is_err() {
            sleep(Duration::from_millis(100)).await;
        }
    })
    .await
    .expect("Google's emulator answers within a minute");
    Some(url)
}

fn launch(theirs: &Theirs) -> Option<(String, Child)> {
    let Some(jar) = jar(theirs.package) else {
        // Writes to stderr directly, because the test runner captures printed output.
        let text = format!("SKIPPED: {} is not installed\n", theirs.package);
        std::io::stderr().write_all(text.as_bytes()).unwrap();
        return None;
    };
    let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    // The shell ends Java when its standard input closes. That also happens if this process is
    // killed.
    let script = r#"java "$@" & cat; kill $!"#;
    let start = match theirs.class {
        None => vec!["-jar", &jar],
        Some(class) => vec!["-cp", &jar, class],
    };
    let shell = Command::new("sh")
        .args(["-c", script, "sh"])
        .args(start)
        .args(["--host=127.0.0.1".to_owned(), format!("--port={port}")])
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .expect("there is a shell");
    // The input stays open until this process ends, because statics are never dropped.
    Some((format!("http://127.0.0.1:{port}"), shell))
}

fn jar(package: &str) -> Option<String> {
    let listed = Command::new("dpkg").args(["-L", package]).output().ok()?;
    let mut lines = BufReader::new(listed.stdout.as_slice()).lines().map_while(Result::ok);
    lines.find(|line| line.ends_with(".jar"))
}
