//! Test that the process ends within its grace period, even while it waits for a name server.

#![expect(clippy::unwrap_used, reason = "a failed step fails the test")]

use std::io::{BufRead as _, BufReader, Write as _};
use std::net::UdpSocket;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

/// Address of a name server on this machine. Name servers listen on port 53.
const NAME_SERVER: &str = "127.0.0.153";
/// Time limit far below 10 minutes, the time that the C library waits for names with the settings
/// below.
const PATIENCE: Duration = Duration::from_secs(120);

/// Returns a command that asks only [`NAME_SERVER`] for names, if this machine allows that.
fn with_own_name_server(folder: &std::path::Path) -> Option<Command> {
    let resolv = folder.join("resolv.conf");
    let text = format!("nameserver {NAME_SERVER}\noptions timeout:30 attempts:5\n");
    std::fs::write(&resolv, text).unwrap();
    let shell = |then: &str| {
        let mount = format!("mount --bind '{}' /etc/resolv.conf && {then}", resolv.display());
        let mut command = Command::new("unshare");
        command.args(["--mount", "--map-root-user", "sh", "-c", &mount]);
        command
    };
    let tried = shell("true").stderr(Stdio::null()).status();
    tried
        .is_ok_and(|status| status.success())
        .then(|| shell(&format!("exec '{}'", env!("CARGO_BIN_EXE_icestore"))))
}

#[test]
fn a_name_server_that_does_not_answer_does_not_hold_the_end_up() {
    let folder = tempfile::tempdir().unwrap();
    let listening = UdpSocket::bind((NAME_SERVER, 53));
    let (Ok(name_server), Some(mut command)) = (listening, with_own_name_server(folder.path()))
    else {
        let why = format!("SKIPPED: port 53 of {NAME_SERVER} or a mount namespace is missing\n");
        // The test runner captures output and would hide this text, so it goes directly to standard
        // error.
        std::io::stderr().write_all(why.as_bytes()).unwrap();
        return;
    };
    name_server.set_read_timeout(Some(PATIENCE)).unwrap();
    let settings = [
        ("DATAFLOW__PROJECT", "p"),
        ("DATAFLOW__SUBSCRIPTION__ID", "s"),
        ("DATAFLOW__STORAGE__BUCKET", "b"),
        ("DATAFLOW__DEAD_LETTERS", "drop"),
        ("DATAFLOW__GRACE_PERIOD", "60s"),
        ("PUBSUB_EMULATOR_HOST", "pubsub.test:8085"),
        ("STORAGE_EMULATOR_HOST", "storage.test:8085"),
        ("PORT", "0"),
    ];
    command.env_clear().env("PATH", std::env::var_os("PATH").unwrap()).envs(settings);
    let mut child = command.stderr(Stdio::piped()).spawn().unwrap();
    let mut stderr = BufReader::new(child.stderr.take().unwrap());

    // From now on, a thread of the process waits for this answer.
    name_server.recv_from(&mut [0; 512]).unwrap();
    let pid = child.id().to_string();
    assert!(Command::new("kill").args(["-TERM", &pid]).status().unwrap().success());
    let mut said = String::new();
    while !said.contains("\"drained\"") && stderr.read_line(&mut said).unwrap() > 0 {}
    let started = Instant::now();
    let ended = loop {
        if let Some(status) = child.try_wait().unwrap() {
            break status;
        }
        assert!(started.elapsed() < Duration::from_secs(30), "drained, but still there: {said}");
        std::thread::sleep(Duration::from_millis(20));
    };

    assert_eq!(ended.code(), Some(0), "{said}");
}
