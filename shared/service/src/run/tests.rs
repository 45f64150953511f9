//! Tests that processes end as they must, even if something blocks them. Each test starts this test
//! binary again as a service with the fault that the variable names.

use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::TcpStream;
use std::path::Path;
use std::process::{self, Child, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use super::run_as;
use crate::args::{Command, CostOptions, JsonOption};
use crate::scripted::{CRASH_FILE, Scripted, ScriptedSettings, Trouble};
use crate::tools::preflight::Form;

/// Variable that turns this test binary into a service.
const TROUBLE: &str = "SCRIPTED_TROUBLE";
/// Maximum wait for a process to end, far longer than its grace period.
const PATIENCE: Duration = Duration::from_secs(60);

/// Runs the service itself. As a normal test, without the variable, it passes at once.
#[test]
fn the_service_of_these_tests() {
    let Ok(trouble) = std::env::var(TROUBLE) else { return };
    let trouble: Trouble = serde_json::from_str(&trouble).unwrap();

    let code = run_as(["scripted".into()], "for tests", &[], |settings| Scripted {
        trouble,
        second: None,
        settings,
    });

    std::process::exit(code.into());
}

#[test]
fn a_program_may_build_clients_where_it_makes_its_service() {
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let output = JsonOption { form: Form::Json };
    let plan = Command::Plan { cost: CostOptions::none(), offline: false, output };

    let planned = super::act_on(&runtime, plan, &[], in_a_runtime, ScriptedSettings::default());

    planned.unwrap();
}

/// Makes the service, as a program does that builds a client of Google before.
fn in_a_runtime(settings: ScriptedSettings) -> Scripted {
    tokio::runtime::Handle::current();
    Scripted { trouble: Trouble::None, second: None, settings }
}

/// Service in its own process.
struct Process {
    child: Child,
    /// Standard error. It is read only up to an expected line, and never after that.
    stderr: BufReader<std::process::ChildStderr>,
}

impl Process {
    fn start(trouble: Trouble, grace: &str) -> Self {
        Self::start_with(trouble, grace, None)
    }

    fn start_with(trouble: Trouble, grace: &str, crash_file: Option<&Path>) -> Self {
        let mut command = process::Command::new(std::env::current_exe().unwrap());
        command.args(["--exact", "run::tests::the_service_of_these_tests", "--nocapture"]);
        command.env(TROUBLE, serde_json::to_string(&trouble).unwrap());
        command.env("DATAFLOW__GRACE_PERIOD", grace).env("PORT", "0");
        command.envs(crash_file.map(|path| (CRASH_FILE, path)));
        let mut child = command.stdout(Stdio::null()).stderr(Stdio::piped()).spawn().unwrap();
        let stderr = BufReader::new(child.stderr.take().unwrap());
        Self { child, stderr }
    }

    /// Returns what it has said up to this text.
    fn until_it_says(&mut self, text: &str) -> String {
        let mut said = String::new();
        while !said.contains(text) {
            assert!(self.stderr.read_line(&mut said).unwrap() > 0, "it ended and said: {said}");
        }
        said
    }

    fn terminate(&self) {
        let pid = self.child.id().to_string();
        assert!(process::Command::new("kill").args(["-TERM", &pid]).status().unwrap().success());
    }

    fn ended(&mut self) -> ExitStatus {
        let started = Instant::now();
        loop {
            if let Some(status) = self.child.try_wait().unwrap() {
                return status;
            }
            if started.elapsed() > PATIENCE {
                self.child.kill().unwrap();
                self.child.wait().unwrap();
                panic!("the process did not end within {PATIENCE:?}");
            }
            std::thread::sleep(Duration::from_millis(20));
        }
    }
}

fn drained(trouble: Trouble) -> ExitStatus {
    let mut process = Process::start(trouble, "30s");
    process.until_it_says("in trouble");
    process.terminate();
    process.ended()
}

/// Sends a request to `/loglevel`, and returns the answer.
fn loglevel(port: u16, request: &str) -> String {
    let mut stream = TcpStream::connect(("127.0.0.1", port)).unwrap();
    stream.write_all(request.as_bytes()).unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    answer
}

#[test]
fn the_levels_of_a_running_process_can_be_changed_and_each_line_names_its_service() {
    let mut process = Process::start(Trouble::None, "30s");
    let said = process.until_it_says("health server answers");
    let (_, line) = said.rsplit_once('{').unwrap();
    assert!(line.contains("\"service\":\"scripted\""), "{said}");
    let port = said.split("\"address\":\"0.0.0.0:").nth(1).unwrap();
    let port = port.split('"').next().unwrap().parse().unwrap();

    let answer = loglevel(port, "PUT /loglevel HTTP/1.0\r\nContent-Length: 10\r\n\r\ninfo,a=off");
    let changed = process.until_it_says("levels of the log change");
    let wrong = loglevel(port, "PUT /loglevel HTTP/1.0\r\nContent-Length: 6\r\n\r\na=loud");
    let shown = loglevel(port, "GET /loglevel HTTP/1.0\r\n\r\n");

    assert!(answer.starts_with("HTTP/1.0 200 "), "{answer}");
    assert!(changed.contains("\"service\":\"scripted\",\"component\":\"service\""), "{changed}");
    assert!(wrong.starts_with("HTTP/1.0 400 ") && wrong.contains("`a=loud`"), "{wrong}");
    assert!(shown.ends_with("\r\n\r\ninfo,a=off\n"), "{shown}");
    process.terminate();
    assert_eq!(process.ended().code(), Some(0));
}

#[test]
fn a_drained_process_does_not_wait_for_a_thread_that_is_blocked() {
    assert_eq!(drained(Trouble::BlockingCall).code(), Some(0));
}

#[test]
fn a_drained_process_does_not_wait_for_a_reader_of_its_logs() {
    assert_eq!(drained(Trouble::Chatter).code(), Some(0));
}

#[test]
fn a_process_whose_workers_are_all_blocked_ends_after_its_grace_period() {
    let mut process = Process::start(Trouble::BlockedWorkers, "100ms");
    process.until_it_says("in trouble");
    process.terminate();

    assert_eq!(process.ended().code(), Some(1));
}

#[test]
fn a_second_signal_ends_a_process_whose_workers_are_all_blocked() {
    let mut process = Process::start(Trouble::BlockedWorkers, "1h");
    process.until_it_says("in trouble");
    process.terminate();
    // Two signals that arrive before the first one is handled count as one.
    std::thread::sleep(Duration::from_millis(500));
    let started = Instant::now();
    while process.child.try_wait().unwrap().is_none() && started.elapsed() < PATIENCE {
        process.terminate();
        std::thread::sleep(Duration::from_millis(100));
    }

    assert_eq!(process.ended().code(), Some(1));
}

#[test]
fn a_service_that_cannot_go_on_ends_with_exit_code_1() {
    let ends =
        [Trouble::SourceFails, Trouble::SourcePanics, Trouble::LanePanics, Trouble::SinkStops];
    for trouble in ends {
        let ended = Process::start(trouble, "30s").ended();

        assert_eq!(ended.code(), Some(1), "{trouble:?}");
    }
}

#[test]
fn a_service_whose_settings_do_not_fit_ends_with_exit_code_2() {
    assert_eq!(Process::start(Trouble::WrongSettings, "30s").ended().code(), Some(2));
}

#[test]
fn wrong_settings_without_a_file_are_told_with_how_to_name_one() {
    let mut process = Process::start(Trouble::None, "soon");

    process.until_it_says("no settings file was given: name one with --config");

    assert_eq!(process.ended().code(), Some(2));
}

#[test]
fn a_service_that_fails_and_cannot_drain_ends_after_its_grace_period() {
    let mut process = Process::start(Trouble::SourceFailsWithBlockedWorkers, "100ms");

    assert_eq!(process.ended().code(), Some(1));
}

/// Waits until the crash file names a message at work, and ends the process by force. Returns
/// whether the file still names a message afterwards.
fn at_work_after_a_forced_end(
    trouble: Trouble,
    grace: &str,
    second_signal: Option<Duration>,
) -> bool {
    let folder = tempfile::tempdir().unwrap();
    let crash_file = folder.path().join("crash_file");
    let has_note = || {
        let text = std::fs::read_to_string(&crash_file).unwrap_or_default();
        // Lanes that have written nothing yet are holes in the file.
        let mut lines = text.split(['\n', '\0']).filter(|line| line.len() == 16);
        lines.any(|line| line.contains(|digit| digit != '0'))
    };
    let mut process = Process::start_with(trouble, grace, Some(&crash_file));
    let started = Instant::now();
    while !has_note() {
        assert!(started.elapsed() < PATIENCE, "{trouble:?}: nothing is at work");
        std::thread::sleep(Duration::from_millis(20));
    }

    process.terminate();
    if let Some(after) = second_signal {
        std::thread::sleep(after);
        process.terminate();
    }

    assert_eq!(process.ended().code(), Some(1), "{trouble:?}");
    has_note()
}

#[test]
fn a_write_that_hangs_until_a_forced_end_blames_no_message() {
    assert!(!at_work_after_a_forced_end(Trouble::WriteHangs, "100ms", None));
    let second_signal = Some(Duration::from_millis(500));
    assert!(!at_work_after_a_forced_end(Trouble::WriteHangs, "1h", second_signal));
}

/// The message would hang the lane again after each restart.
#[test]
fn a_message_over_which_a_lane_hangs_until_a_forced_end_is_blamed() {
    assert!(at_work_after_a_forced_end(Trouble::LaneHangs, "1s", None));
}
