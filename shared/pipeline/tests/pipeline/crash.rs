//! A message that ends the process again and again is put aside, and the others are written.

use std::path::Path;
use std::process::{Command, ExitStatus};

use pipeline::dead_letter::Policy;
use pipeline::doubles::{FaultRates, Faults, Feed, Graveyard, Item, Kind, Ledger, Shelf};
use pipeline::{Error, Limits, MAX_CRASHES, Message, Metrics, Pipeline, Step, Transform};

/// Names the crash file of the process that the test starts.
const VARIABLE: &str = "CRASH_FILE_OF_THE_TEST";

/// Ends the process over one message, as a stack overflow or the kernel's killer does.
struct Fatal;

impl Transform for Fatal {
    type Record = Item;

    async fn apply(&self, message: &Message) -> Result<Step<Item>, Error> {
        if message.id.starts_with("fatal") {
            std::process::abort();
        }
        let id = message.id.clone();
        Ok(Step::Pass(Item { key: "key".into(), id, bytes: 1, kind: Kind::Good }))
    }
}

#[tokio::test]
#[ignore = "the process that the other test starts"]
async fn process() {
    let ledger = Ledger::default();
    let faultless = || Faults::new(FaultRates::default(), 0);
    let messages = ["1", "fatal", "fatal too", "2"].map(|id| {
        let mut message = Message::new("data");
        message.id = id.into();
        message
    });
    let pipeline = Pipeline {
        service: "test",
        source: Feed::new(messages, ledger.clone()),
        transform: Fatal,
        sink: Shelf::new(ledger.clone(), faultless(), 100),
        dead_letters: Policy::Bury(Graveyard(ledger.clone(), faultless())),
        limits: Limits {
            lanes: 1,
            crash_file: std::env::var_os(VARIABLE).map(Into::into),
            ..Limits::default()
        },
        metrics: Metrics::default(),
    };

    assert!(pipeline.start().ended().await.is_none());

    for id in ["fatal", "fatal too"] {
        assert_eq!(ledger.book().buried.get(id), Some(&"crashed"));
    }
    assert_eq!(ledger.book().written.len(), 2);
}

fn run(crash_file: &Path) -> ExitStatus {
    let mut process = Command::new(std::env::current_exe().unwrap());
    process.args(["crash::process", "--exact", "--ignored"]).env(VARIABLE, crash_file);
    process.output().unwrap().status
}

#[test]
fn messages_that_end_the_process_are_put_aside_after_three_ends_each() {
    let folder = tempfile::tempdir().unwrap();
    let crash_file = folder.path().join("crash_file");

    for _ in 0..2 * MAX_CRASHES {
        assert!(!run(&crash_file).success(), "a message ends the process");
    }

    assert!(run(&crash_file).success(), "both are put aside, and the others are written");
}
