//! Logs: for people on a terminal, else one JSON object a line as Cloud Logging reads it.

use std::fmt;
use std::io::IsTerminal as _;
use std::sync::OnceLock;

use serde_json::{Map, Value};
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;
use tracing::field::{Field, Visit};
use tracing::{Event, Level, Subscriber};
use tracing_subscriber::EnvFilter;
use tracing_subscriber::fmt::format::Writer;
use tracing_subscriber::fmt::{FmtContext, FormatEvent, FormatFields};
use tracing_subscriber::registry::LookupSpan;

/// The level without `RUST_LOG`. The client of Firestore tells of each client that is made.
const LEVEL: &str = "info,firestore=warn";

/// Sends this process's logs to standard error, at the level of `RUST_LOG`, `info` by default.
pub fn install() {
    let filter = EnvFilter::try_from_default_env().unwrap_or_else(|_| EnvFilter::new(LEVEL));
    let builder = tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr);
    let installed = if std::io::stderr().is_terminal() {
        tracing::subscriber::set_global_default(builder.finish())
    } else {
        tracing::subscriber::set_global_default(builder.event_format(CloudLogging).finish())
    };
    // An error means that whoever embeds us has set up logs already.
    drop(installed);
}

/// The project that traces belong to, as far as this process knows one.
static PROJECT: OnceLock<String> = OnceLock::new();

/// Says which project traces belong to; the first one counts.
pub fn name_project(project: &str) {
    // An error means that it has a name already.
    drop(PROJECT.set(project.to_owned()));
}

/// Cloud Logging's structured form: `severity`, `message`, `time`, then the event's own fields; the
/// field `trace` becomes the one that links a line to its trace.
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

/// `LogSeverity` of the Cloud Logging API.
fn severity(level: Level) -> &'static str {
    match level {
        Level::ERROR => "ERROR",
        Level::WARN => "WARNING",
        Level::INFO => "INFO",
        Level::DEBUG | Level::TRACE => "DEBUG",
    }
}

/// The field by which Cloud Logging knows the trace of a line.
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

    fn record_bool(&mut self, field: &Field, value: bool) {
        self.put(field.name(), value);
    }

    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        self.put(field.name(), format!("{value:?}"));
    }
}
