//! Tests that a message that ends the process again and again becomes a dead letter, and that the
//! others are written.

use std::path::Path;
use std::process::{Command, ExitStatus};
use std::time::Duration;

use message::Message;
use pipeline::dead_letter::Policy;
use pipeline::doubles::{
    Call, FaultRates, Faults, Hook, Hooked, Item, Kind, MemoryDeadLetters, MemorySink,
    MemorySource, Recorder,
};
use pipeline::{Error, Limits, MAX_CRASHES, Metrics, Pipeline, Step, Transform, batch};

/// Variable with the crash file of the process that the test starts.
const VARIABLE: &str = "CRASH_FILE_OF_THE_TEST";
/// Variable with the step in which fatal messages end that process.
const STEP: &str = "FATAL_STEP_OF_THE_TEST";

/// Ends the process over some messages in one step, as a stack overflow or the kernel's
/// out-of-memory killer does.
struct Fatal(String);

impl Fatal {
    fn reach(&self, step: &str, id: &str) {
        if id.starts_with("fatal") && step == self.0 {
            std::process::abort();
        }
    }
}

impl Transform for Fatal {
    type Record = Item;

    async fn apply(&self, message: &Message) -> Result<Step<Item>, Error> {
        self.reach("transform", &message.id);
        // Other messages are taken while this one waits.
        tokio::time::sleep(Duration::from_millis(10)).await;
        self.reach("later poll", &message.id);
        let id = message.id.clone();
        Ok(Step::Pass(Item { key: "key".into(), id, bytes: 1, kind: Kind::Good }))
    }
}

impl Hook for Fatal {
    fn called(&self, call: Call, name: &str) {
        self.reach(&format!("{call:?}"), name);
    }

    async fn before_write(&self, batch: &[Item]) {
        tokio::time::sleep(Duration::from_millis(10)).await;
        batch.iter().for_each(|item| self.reach("later poll of a write", &item.id));
    }
}

#[tokio::test(start_paused = true)]
#[ignore = "the process that the other tests start"]
async fn process() {
    let recorder = Recorder::default();
    let faultless = || Faults::new(FaultRates::default(), 0);
    let ids = (0..40).map(|id| id.to_string());
    let ids = ids.chain(["fatal".into(), "fatal too".into()]);
    let messages = ids.map(|id: String| {
        let mut message = Message::new("data");
        message.id = id;
        message
    });
    let fatal = || Fatal(std::env::var(STEP).unwrap());
    let pipeline = Pipeline {
        service: "test",
        source: MemorySource::new(messages, recorder.clone()),
        transform: fatal(),
        sink: Hooked(MemorySink::new(recorder.clone(), faultless(), 100), fatal()),
        dead_letters: Policy::Write(MemoryDeadLetters(recorder.clone(), faultless())),
        limits: Limits {
            lanes: 1,
            crash_file: std::env::var_os(VARIABLE).map(Into::into),
            batch: batch::BatchLimits {
                max_idle: Duration::from_secs(1),
                ..batch::BatchLimits::default()
            },
            ..Limits::default()
        },
        metrics: Metrics::default(),
    };

    assert!(pipeline.start().ended().await.is_none());

    for id in ["fatal", "fatal too"] {
        assert_eq!(recorder.recording().dead_lettered.get(id), Some(&"crashed"));
    }
    assert_eq!(recorder.recording().dead_lettered.len(), 2);
    assert_eq!(recorder.recording().written.len(), 40);
}

fn run(step: &str, crash_file: &Path) -> ExitStatus {
    let mut process = Command::new(std::env::current_exe().unwrap());
    process.args(["crash::process", "--exact", "--ignored"]).env(VARIABLE, crash_file);
    process.env(STEP, step).output().unwrap().status
}

/// Runs a process again and again, until one ends cleanly after all its work. Returns the number of
/// unclean ends before it.
fn unclean_ends(step: &str) -> u32 {
    let folder = tempfile::tempdir().unwrap();
    let crash_file = folder.path().join("crash_file");
    let ends = (0..20).find(|_| run(step, &crash_file).success());
    ends.unwrap_or_else(|| panic!("{step}: the culprits are not put aside"))
}

#[test]
fn messages_that_end_the_process_are_put_aside_after_three_ends_each() {
    for step in ["transform", "later poll", "Push"] {
        assert_eq!(unclean_ends(step), 2 * MAX_CRASHES, "{step}");
    }
}

#[test]
fn messages_whose_batch_ends_the_process_are_put_aside_and_no_others() {
    for step in ["Encode", "Write", "later poll of a write"] {
        let ends = unclean_ends(step);

        assert!((MAX_CRASHES..=5 * MAX_CRASHES).contains(&ends), "{step}: {ends}");
    }
}
