//! Logs. On a terminal they are text for people. Elsewhere each line is a JSON object for Cloud
//! Logging.

mod lines;

use std::backtrace::{Backtrace, BacktraceStatus};
use std::env::VarError;
use std::fmt;
use std::io::IsTerminal as _;
use std::sync::OnceLock;
use std::time::Duration;

use serde_json::{Map, Value};
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;
use tracing::field::{Field, Visit};
use tracing::{Event, Level, Subscriber, error, warn};
use tracing_subscriber::EnvFilter;
use tracing_subscriber::fmt::format::Writer;
use tracing_subscriber::fmt::{FmtContext, FormatEvent, FormatFields};
use tracing_subscriber::registry::LookupSpan;

use lines::Lines;
pub(crate) use lines::{flush, lost};

/// Variable that sets the log level.
const RUST_LOG: &str = "RUST_LOG";
/// Log level without [`RUST_LOG`]. Firestore's client logs every client that it creates, so it is
/// limited to warnings.
const LEVEL: &str = "info,firestore=warn";

/// Sends this process's logs to standard error, at the level of `RUST_LOG`. Without `RUST_LOG` the
/// level is `info`, and `warn` for Firestore's client. The same holds if `RUST_LOG` is wrong, and a
/// line says so.
///
/// No thread waits for standard error. While its reader does not read, lines are queued. When the
/// queue is full, lines are lost and counted. So call [`flush`] before the process ends.
pub(crate) fn install() {
    let (filter, wrong) = filter(std::env::var(RUST_LOG));
    let is_terminal = std::io::stderr().is_terminal();
    let lines = Lines::of_process(if is_terminal { lost_for_people } else { lost_for_programs });
    let builder = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_ansi(is_terminal)
        .with_writer(move || lines.clone());
    let installed = if is_terminal {
        tracing::subscriber::set_global_default(builder.finish())
    } else {
        tracing::subscriber::set_global_default(builder.event_format(CloudLogging).finish())
    };
    if installed.is_ok() && !is_terminal {
        std::panic::set_hook(Box::new(log_panic));
    }
    // An error means that the embedding program has set up logs already.
    drop(installed);
    if let Some(wrong) = wrong {
        warn!("{wrong}");
    }
}

/// Returns the filter of a value of [`RUST_LOG`], and what is wrong with the value.
fn filter(value: Result<String, VarError>) -> (EnvFilter, Option<String>) {
    let wrong = match value {
        Ok(directives) => match EnvFilter::try_new(&directives) {
            Ok(filter) => return (filter, None),
            Err(error) => format!("{RUST_LOG} is `{directives}`: {error}"),
        },
        Err(VarError::NotPresent) => return (EnvFilter::new(LEVEL), None),
        Err(error @ VarError::NotUnicode(_)) => format!("{RUST_LOG}: {error}"),
    };
    let like = "must be levels such as `debug` or `info,pubsub=debug`";
    (EnvFilter::new(LEVEL), Some(format!("{wrong}; {like}; the level is `{LEVEL}`")))
}

/// Logs a panic like any other event. The default hook would write to standard error and wait for
/// it.
fn log_panic(panic: &std::panic::PanicHookInfo<'_>) {
    let thread = std::thread::current();
    let place = panic.location().map(ToString::to_string);
    let backtrace = Backtrace::capture();
    let backtrace = (backtrace.status() == BacktraceStatus::Captured).then_some(backtrace);
    error!(
        thread = thread.name(),
        place,
        panic = panic.payload_as_str().unwrap_or("without a message"),
        backtrace = backtrace.map(|backtrace| backtrace.to_string()),
        "a thread has panicked"
    );
    // The process may end together with this thread.
    flush(PATIENCE_OF_PANIC);
}

/// Maximum wait for the log line of a panic.
const PATIENCE_OF_PANIC: Duration = Duration::from_millis(200);

fn lost_for_people(lines: u64) -> String {
    format!("{lines} log lines were lost: nobody read standard error")
}

fn lost_for_programs(lines: u64) -> String {
    let mut line = Fields(Map::new());
    line.put("severity", severity(Level::WARN));
    line.put("time", OffsetDateTime::now_utc().format(&Rfc3339).unwrap_or_default());
    line.put("target", module_path!());
    line.put("message", "log lines were lost: nobody read standard error");
    line.put("lines", lines);
    Value::Object(line.0).to_string()
}

/// Project that traces belong to, if this process knows one.
static PROJECT: OnceLock<String> = OnceLock::new();

/// Sets the project that traces belong to. Only the first call has an effect.
pub(crate) fn name_project(project: &str) {
    // An error means that the project is set already.
    let _ = PROJECT.set(project.to_owned());
}

/// Format of Cloud Logging's structured logs: `severity`, `time`, `target`, then the event's own
/// fields, such as `message`. The field `trace` becomes the field that links a line to its trace.
struct CloudLogging;

impl<S, N> FormatEvent<S, N> for CloudLogging
where
    S: Subscriber + for<'a> LookupSpan<'a>,
    N: for<'a> FormatFields<'a> + 'static,
{
    fn format_event(
        &self,
        _context: &FmtContext<'_, S, N>,
        mut writer: Writer<'_>,
        event: &Event<'_>,
    ) -> fmt::Result {
        let time = OffsetDateTime::now_utc().format(&Rfc3339).map_err(|_| fmt::Error)?;
        let mut line = Fields(Map::new());
        line.put("severity", severity(*event.metadata().level()));
        line.put("time", time);
        line.put("target", event.metadata().target());
        event.record(&mut line);
        writeln!(writer, "{}", Value::Object(line.0))
    }
}

/// Returns the `LogSeverity` of the Cloud Logging API.
fn severity(level: Level) -> &'static str {
    match level {
        Level::ERROR => "ERROR",
        Level::WARN => "WARNING",
        Level::INFO => "INFO",
        Level::DEBUG | Level::TRACE => "DEBUG",
    }
}

/// Name of the field in which Cloud Logging expects the trace of a line.
const TRACE: &str = "logging.googleapis.com/trace";

struct Fields(Map<String, Value>);

impl Fields {
    fn put(&mut self, name: &str, value: impl Into<Value>) {
        self.0.insert(name.to_owned(), value.into());
    }
}

impl Visit for Fields {
    fn record_str(&mut self, field: &Field, value: &str) {
        match (field.name(), PROJECT.get()) {
            ("trace", Some(project)) => {
                self.put(TRACE, format!("projects/{project}/traces/{value}"));
            }
            (name, _) => self.put(name, value),
        }
    }

    fn record_u64(&mut self, field: &Field, value: u64) {
        self.put(field.name(), value);
    }

    fn record_i64(&mut self, field: &Field, value: i64) {
        self.put(field.name(), value);
    }

    fn record_f64(&mut self, field: &Field, value: f64) {
        // JSON has no number for infinity or NaN. Both become null.
        self.put(field.name(), value);
    }

    fn record_bool(&mut self, field: &Field, value: bool) {
        self.put(field.name(), value);
    }

    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        self.put(field.name(), format!("{value:?}"));
    }
}

#[cfg(test)]
mod tests {
    use std::io::{self, Write};
    use std::sync::{Arc, Mutex};

    use tracing::{debug, info};

    use super::*;

    #[derive(Clone, Default)]
    struct Buffer(Arc<Mutex<Vec<u8>>>);

    impl Write for Buffer {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0.lock().unwrap().extend_from_slice(bytes);
            Ok(bytes.len())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    /// Returns the lines that `log` writes, as Cloud Logging receives them.
    fn logged(log: impl FnOnce()) -> Vec<Value> {
        let buffer = Buffer::default();
        let writer = buffer.clone();
        let subscriber = tracing_subscriber::fmt()
            .with_max_level(Level::DEBUG)
            .with_writer(move || writer.clone())
            .event_format(CloudLogging);
        tracing::subscriber::with_default(subscriber.finish(), log);
        let text = String::from_utf8(buffer.0.lock().unwrap().clone()).unwrap();
        text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
    }

    #[test]
    fn a_line_is_what_cloud_logging_reads() {
        let error = io::Error::other("two\nlines");

        let mut lines = logged(|| {
            let (rows, late, share) = (3_usize, -2_i64, 0.25);
            warn!(rows, late, share, is_new = true, table = "readings", %error, "rows \"failed\"");
        });

        let line = lines[0].as_object_mut().unwrap();
        let time = line.remove("time").unwrap();
        assert!(OffsetDateTime::parse(time.as_str().unwrap(), &Rfc3339).is_ok(), "{time}");
        let expected = serde_json::json!({
            "severity": "WARNING",
            "target": module_path!(),
            "message": "rows \"failed\"",
            "rows": 3,
            "late": -2,
            "share": 0.25,
            "is_new": true,
            "table": "readings",
            "error": "two\nlines",
        });
        assert_eq!(lines[0], expected);
    }

    #[test]
    fn a_level_that_cannot_be_read_is_replaced_and_named() {
        let filtered = |value: &str| {
            let (filter, wrong) = filter(Ok(value.into()));
            (filter.to_string(), wrong.unwrap_or_default())
        };

        assert_eq!(filtered("pubsub=debug"), ("pubsub=debug".into(), String::new()));
        let (filter, wrong) = filtered("pubsub=loud");
        assert_eq!(filter, EnvFilter::new(LEVEL).to_string());
        assert!(wrong.starts_with("RUST_LOG is `pubsub=loud`: "), "{wrong}");
        let (_, wrong) = super::filter(Err(VarError::NotPresent));
        assert_eq!(wrong, None);
    }

    #[test]
    fn every_level_has_its_severity() {
        let lines = logged(|| {
            error!("a");
            warn!("b");
            info!("c");
            debug!("d");
        });

        let severities: Vec<_> = lines.iter().map(|line| line["severity"].clone()).collect();
        assert_eq!(severities, ["ERROR", "WARNING", "INFO", "DEBUG"]);
    }

    #[test]
    fn lost_lines_are_told_in_the_same_form() {
        let line: Value = serde_json::from_str(&lost_for_programs(7)).unwrap();

        assert_eq!(line["severity"], "WARNING");
        assert_eq!(line["lines"], 7);
    }
}
