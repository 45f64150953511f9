//! Durations of the phases of end-to-end tests. They are a record, and no test checks them.
//!
//! The environment of a test starts a [`Timings`]. Then [`phase`] begins the next phase from anywhere in
//! the body of the test. When the environment is dropped, a file in `target/timings` has the phases.
//! The program `timings` makes one table of all files.

mod table;

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::io::Write as _;
use std::panic::Location;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::Instant;

use anyhow::Context as _;
use serde::{Deserialize, Serialize};
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

pub use table::Table;

/// Start of servers, and creation of resources in the cloud.
pub const RESOURCES: &str = "resources";
/// Start of services, until they are ready.
pub const SERVICES: &str = "services";
/// Sending, until everything is acknowledged.
pub const SEND: &str = "send";
/// Wait until everything has arrived.
pub const SETTLE: &str = "settle";
/// Comparison with what was sent.
pub const VERIFY: &str = "verify";
/// Removal of resources.
pub const TEARDOWN: &str = "teardown";
/// All phases, in their usual order.
pub const PHASES: [&str; 6] = [RESOURCES, SERVICES, SEND, SETTLE, VERIFY, TEARDOWN];

thread_local! {
    /// Record of the test on this thread. The runtime polls the body of a test on its own thread.
    static CURRENT: RefCell<Weak<Mutex<Recording>>> = const { RefCell::new(Weak::new()) };
}

/// Names that are taken in this process, with their numbers.
static TAKEN: Mutex<BTreeMap<String, u32>> = Mutex::new(BTreeMap::new());

/// Timings of one test, as a file has them.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Record {
    /// Name of the test's program.
    pub program: String,
    /// Name of the test.
    pub test: String,
    /// Time of the end, in RFC 3339.
    pub ended_at: String,
    /// True if the test ended without a panic.
    pub has_passed: bool,
    /// Duration of all phases in seconds.
    pub seconds: f64,
    /// Phases in the order of their first beginning.
    pub phases: Vec<Phase>,
}

/// Phase of a test.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Phase {
    /// Name of the phase.
    pub name: String,
    /// Duration in seconds. It is a sum if the phase came several times.
    pub seconds: f64,
}

/// Timings of a running test. Dropping them writes the file.
#[derive(Debug)]
pub struct Timings(Arc<Mutex<Recording>>);

#[derive(Debug)]
struct Recording {
    folder: PathBuf,
    test: String,
    phases: Vec<Phase>,
    open: &'static str,
    since: Instant,
}

impl Timings {
    /// Starts the timings of the test on this thread, with its first phase. They go to the folder
    /// `timings` beside the folder of the build.
    #[must_use]
    #[track_caller]
    pub fn start(phase: &'static str) -> Self {
        Self::start_in(folder(), phase)
    }

    /// Like [`Timings::start`], with another folder.
    #[must_use]
    #[track_caller]
    pub fn start_in(folder: PathBuf, phase: &'static str) -> Self {
        let test = unique(test_name(Location::caller()));
        let running =
            Recording { folder, test, phases: Vec::new(), open: phase, since: Instant::now() };
        let running = Arc::new(Mutex::new(running));
        CURRENT.with(|current| current.replace(Arc::downgrade(&running)));
        Self(running)
    }
}

/// Ends the current phase of the test on this thread, and begins another one. Does nothing outside of
/// a test with timings.
pub fn phase(name: &'static str) {
    let running = CURRENT.with(|current| current.borrow().upgrade());
    if let Some(running) = running {
        lock(&running).begin(name);
    }
}

impl Recording {
    fn begin(&mut self, name: &'static str) {
        let now = Instant::now();
        let seconds = (now - self.since).as_secs_f64();
        match self.phases.iter_mut().find(|phase| phase.name == self.open) {
            Some(phase) => phase.seconds += seconds,
            None => self.phases.push(Phase { name: self.open.to_owned(), seconds }),
        }
        (self.open, self.since) = (name, now);
    }

    fn write(&mut self) -> anyhow::Result<()> {
        self.begin("");
        let record = Record {
            program: program(),
            test: self.test.clone(),
            ended_at: OffsetDateTime::now_utc().format(&Rfc3339).context("format the time")?,
            has_passed: !std::thread::panicking(),
            seconds: self.phases.iter().map(|phase| phase.seconds).sum(),
            phases: self.phases.clone(),
        };
        let folder = self.folder.join(&record.program);
        std::fs::create_dir_all(&folder).context("create the folder of the timings")?;
        let name = record.test.replace("::", ".").replace([' ', '/'], "-");
        let json = serde_json::to_vec_pretty(&record).context("write timings as JSON")?;
        std::fs::write(folder.join(format!("{name}.json")), json).context("write timings")
    }
}

impl Drop for Timings {
    fn drop(&mut self) {
        let written = lock(&self.0).write();
        if let Err(error) = written {
            // A test does not fail for its record.
            writeln!(std::io::stderr(), "timings are missing: {error:#}").unwrap_or_default();
        }
    }
}

/// Reads all records below a folder, by program and test.
///
/// # Errors
/// Fails for a file that is no record. A folder that does not exist has none.
pub fn read(folder: &Path) -> anyhow::Result<Vec<Record>> {
    let mut records: Vec<Record> = Vec::new();
    for program in entries(folder)?.iter().filter(|path| path.is_dir()) {
        for file in entries(program)? {
            let shown = file.display();
            let json = std::fs::read(&file).with_context(|| format!("read {shown}"))?;
            records.push(serde_json::from_slice(&json).with_context(|| format!("read {shown}"))?);
        }
    }
    records.sort_by(|one, other| (&one.program, &one.test).cmp(&(&other.program, &other.test)));
    Ok(records)
}

fn entries(folder: &Path) -> anyhow::Result<Vec<PathBuf>> {
    if !folder.is_dir() {
        return Ok(Vec::new());
    }
    let entries = std::fs::read_dir(folder).context("read the folder of the timings")?;
    entries.map(|entry| Ok(entry.context("read the folder of the timings")?.path())).collect()
}

/// Returns the folder of the timings: `timings` in the target folder of this program.
#[must_use]
pub fn folder() -> PathBuf {
    let own = std::env::current_exe().unwrap_or_default();
    let is_profile = |folder: &&Path| !folder.ends_with("deps");
    // A test is in `target/debug/deps`, a program in `target/debug`.
    let profile = own.ancestors().skip(1).find(is_profile).unwrap_or(Path::new(""));
    profile.parent().unwrap_or(Path::new("target")).join("timings")
}

/// Returns the name of this program, without the hash that cargo adds.
fn program() -> String {
    let own = std::env::current_exe().unwrap_or_default();
    let name = own.file_stem().unwrap_or_default().to_string_lossy().into_owned();
    match name.rsplit_once('-') {
        Some((name, hash)) if hash.len() == 16 => name.to_owned(),
        _ => name,
    }
}

/// Returns the name of the test on this thread. With one test at a time, cargo runs them on the main
/// thread, and the place of the environment's start names the test.
fn test_name(place: &Location<'_>) -> String {
    let thread = std::thread::current();
    match thread.name() {
        Some(name) if name != "main" => name.to_owned(),
        _ => {
            let file = Path::new(place.file()).file_stem().unwrap_or_default().to_string_lossy();
            format!("{file}:{}", place.line())
        }
    }
}

/// Adds a number to a name that another environment of this process has.
fn unique(name: String) -> String {
    let mut taken = lock(&TAKEN);
    let number = taken.entry(name.clone()).or_default();
    *number += 1;
    if *number == 1 { name } else { format!("{name} {number}") }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn phases(record: &Record) -> Vec<&str> {
        record.phases.iter().map(|phase| &*phase.name).collect()
    }

    #[test]
    fn a_test_leaves_a_file_with_its_phases() {
        let folder = tempfile::tempdir().unwrap();

        let timings = Timings::start_in(folder.path().to_owned(), RESOURCES);
        for name in [SERVICES, SEND, SETTLE, SEND, VERIFY] {
            phase(name);
        }
        drop(timings);
        phase(TEARDOWN);

        let records = read(folder.path()).unwrap();
        let [record] = &*records else { panic!("{records:?}") };
        assert_eq!(record.test, "timings::tests::a_test_leaves_a_file_with_its_phases");
        assert_eq!(record.program, "e2e");
        assert!(record.has_passed);
        assert_eq!(phases(record), [RESOURCES, SERVICES, SEND, SETTLE, VERIFY]);
        let sum: f64 = record.phases.iter().map(|phase| phase.seconds).sum();
        assert!((sum - record.seconds).abs() < 1e-9, "{record:?}");
    }

    #[test]
    fn a_test_that_panics_is_told_apart_and_a_second_environment_has_a_number() {
        let folder = tempfile::tempdir().unwrap();
        let start = || Timings::start_in(folder.path().to_owned(), RESOURCES);

        drop(start());
        let thread = std::thread::current().name().unwrap().to_owned();
        let failed = std::thread::scope(|scope| {
            let test = || {
                let _timings = start();
                panic!("this test fails");
            };
            std::thread::Builder::new().name(thread).spawn_scoped(scope, test).unwrap().join()
        });

        assert!(failed.is_err());
        let records = read(folder.path()).unwrap();
        let passed: Vec<_> = records.iter().map(|record| record.has_passed).collect();
        assert_eq!(passed, [true, false], "{records:?}");
        assert!(records[1].test.ends_with("has_a_number 2"), "{records:?}");
    }
}
