//! Google's own emulator, where the Debian package `google-cloud-cli-pubsub-emulator` is installed.

use std::io::{BufRead as _, BufReader, Write as _};
use std::net::TcpListener;
use std::process::{Child, Command, Stdio};
use std::sync::Mutex;
use std::time::Duration;

use tokio::time::{sleep, timeout};

static RUNNING: Mutex<Option<(String, Child)>> = Mutex::new(None);

/// Starts it, once for this process, and returns its URL; `None`, loudly, where it is not installed.
///
/// It ends with this process, however that ends.
pub(crate) async fn start() -> Option<String> {
    let url = {
        let mut running = RUNNING.lock().unwrap();
        match &*running {
            Some((url, _)) => url.clone(),
            None => running.insert(launch()?).0.clone(),
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

fn launch() -> Option<(String, Child)> {
    let Some(jar) = jar() else {
        // Past the test runner's capture, which would hide it.
        let text = "SKIPPED: google-cloud-cli-pubsub-emulator is not installed\n";
        std::io::stderr().write_all(text.as_bytes()).unwrap();
        return None;
    };
    let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    // The shell ends Java when its standard input closes, as it does however this process ends.
    let script = r#"java -jar "$0" --host=127.0.0.1 --port="$1" & cat; kill $!"#;
    let shell = Command::new("sh")
        .args(["-c", script, &jar, &port.to_string()])
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .expect("there is a shell");
    // Its input is open until this process ends: statics are never dropped.
    Some((format!("http://127.0.0.1:{port}"), shell))
}

fn jar() -> Option<String> {
    let listed =
        Command::new("dpkg").args(["-L", "google-cloud-cli-pubsub-emulator"]).output().ok()?;
    let mut lines = BufReader::new(listed.stdout.as_slice()).lines().map_while(Result::ok);
    lines.find(|line| line.ends_with(".jar"))
}
