//! The worked example of CONTRIBUTING.md: a transform and a sink of your own, with their tests.

use std::fs::{self, File};
use std::io::{self, Write as _};
use std::path::{Path, PathBuf};
use std::time::Duration;

use message::Message;
use pipeline::dead_letter::Policy;
use pipeline::doubles::{Faults, MemoryDeadLetters, MemorySource, Recorder};
use pipeline::reasons::EVERY_SERVICE;
use pipeline::{
    Error, Limits, Metrics, Pipeline, PushError, Reasons, Recovery, Refusal, Sink, Step, Transform,
};

pipeline::reasons! {
    /// Reasons of dead letters.
    REFUSED {
        /// The data of the message is not UTF-8.
        NOT_TEXT = "not_text";
        /// The line is longer than 80 bytes.
        LINE_TOO_LONG = "line_too_long";
    }
    /// Reasons of messages that are only acknowledged.
    SKIPPED {
        /// The message has no data.
        EMPTY = "empty";
    }
}

/// Reasons why the pipeline of this example settles messages without a line.
const REASONS: Reasons = Reasons { refused: &[REFUSED, EVERY_SERVICE], skipped: &[SKIPPED] };

/// Maximum length of a line in bytes.
const MAX_LINE_BYTES: usize = 80;

/// Makes each message a line of text.
struct ToLine;

impl Transform for ToLine {
    type Record = String;

    async fn apply(&self, message: &Message) -> Result<Step<String>, Error> {
        match std::str::from_utf8(&message.data) {
            Ok("") => Ok(Step::Skip(EMPTY)),
            Ok(text) => Ok(Step::Pass(text.replace('\n', "\\n"))),
            Err(error) => Err(Recovery::Reject(NOT_TEXT).because("read text", error)),
        }
    }
}

/// Writes each batch into a file of its own.
struct FileSink {
    folder: PathBuf,
    /// Learns of each durable line, so that the test sees an acknowledgement that comes too early.
    recorder: Recorder,
}

/// A closed batch. Every attempt to write it uses the same name and the same lines.
struct NamedLines {
    name: String,
    lines: Vec<String>,
}

impl Sink for FileSink {
    type Record = String;
    type Key = (); // Any two lines may share a file.
    type Batch = Vec<String>;
    type EncodedBatch = NamedLines;
    type LaneState = ();

    fn lane_state(&self) {}

    fn key(&self, _line: &String) {}

    fn open(&self, (): &()) -> Vec<String> {
        Vec::new()
    }

    fn push(
        &self,
        batch: &mut Vec<String>,
        line: String,
        (): &mut (),
    ) -> Result<usize, PushError<String>> {
        if line.len() > MAX_LINE_BYTES {
            let error = Recovery::Reject(LINE_TOO_LONG).because("add line", "over 80 bytes");
            return Err(PushError::Refused(error));
        }
        batch.push(line);
        Ok(batch.iter().map(|line| line.len() + 1).sum())
    }

    fn encode(&self, lines: Vec<String>, (): &mut ()) -> NamedLines {
        NamedLines { name: format!("{:016x}.txt", rand::random::<u64>()), lines }
    }

    async fn write(&self, batch: &NamedLines, _limit: Duration) -> Result<Vec<Refusal>, Error> {
        // The call blocks, so nothing of it can go on after the limit. This keeps the example short.
        // A real sink awaits a client, whose request ends when this future is dropped.
        self.create(batch).map_err(|error| Recovery::Retry.because("write file", error))?;
        Ok(Vec::new())
    }

    fn split(&self, batch: &NamedLines, at: usize) -> Option<(NamedLines, NamedLines)> {
        let (first, second) = batch.lines.split_at(at);
        Some((self.encode(first.to_vec(), &mut ()), self.encode(second.to_vec(), &mut ())))
    }
}

impl FileSink {
    /// Creates a complete, durable file. A second call for the same batch replaces the file.
    fn create(&self, batch: &NamedLines) -> io::Result<()> {
        let path = self.folder.join(&batch.name);
        let draft = path.with_extension("draft");
        let mut file = File::create(&draft)?;
        for line in &batch.lines {
            writeln!(file, "{line}")?;
        }
        file.sync_all()?;
        fs::rename(&draft, &path)?;
        File::open(&self.folder)?.sync_all()?;
        // In the test, the text of a message is its id.
        self.recorder.recording().written.extend(batch.lines.iter().cloned());
        Ok(())
    }
}

/// Returns the lines of all files in a folder, sorted.
fn lines_in(folder: &Path) -> Vec<String> {
    let files = fs::read_dir(folder).unwrap();
    let text: String =
        files.map(|file| fs::read_to_string(file.unwrap().path()).unwrap()).collect();
    let mut lines: Vec<String> = text.lines().map(str::to_owned).collect();
    lines.sort();
    lines
}

fn message(text: &str) -> Message {
    let mut message = Message::new(text.to_owned());
    message.id = text.into();
    message
}

#[tokio::test(start_paused = true)]
async fn lines_are_written_and_a_long_line_is_a_dead_letter() {
    let folder = tempfile::tempdir().unwrap();
    let recorder = Recorder::default();
    let too_long = "x".repeat(MAX_LINE_BYTES + 1);
    let messages = [message("warm"), message("cold"), message(&too_long)];
    let pipeline = Pipeline {
        service: "example",
        source: MemorySource::new(messages, recorder.clone()),
        transform: ToLine,
        sink: FileSink { folder: folder.path().to_owned(), recorder: recorder.clone() },
        dead_letters: Policy::Write(MemoryDeadLetters(recorder.clone(), Faults::none())),
        limits: Limits::default(),
        metrics: Metrics::new("example", &REASONS),
    };

    let failure = pipeline.start().ended().await;

    assert!(failure.is_none(), "{failure:?}");
    assert_eq!(lines_in(folder.path()), ["cold", "warm"]);
    assert_eq!(recorder.recording().dead_lettered[&too_long], "line_too_long");
    assert_eq!(recorder.recording().acked.len(), 3);
    assert!(recorder.recording().broken.is_empty(), "an acknowledgement came too early");
}

#[tokio::test]
async fn a_batch_that_is_written_twice_is_one_file() {
    let folder = tempfile::tempdir().unwrap();
    let sink = FileSink { folder: folder.path().to_owned(), recorder: Recorder::default() };
    let batch = sink.encode(vec!["warm".into()], &mut ());

    for _ in 0..2 {
        sink.write(&batch, Duration::MAX).await.unwrap();
    }

    assert_eq!(lines_in(folder.path()), ["warm"]);
}

#[test]
fn the_guide_quotes_this_file() {
    let guide = include_str!("../../../../CONTRIBUTING.md");

    let quotes: Vec<_> = guide.split("```rust\n").skip(1).collect();

    assert!(!quotes.is_empty());
    for quote in quotes {
        let code = quote.split("```").next().unwrap();
        assert!(include_str!("file_sink.rs").contains(code), "{code}");
    }
}
