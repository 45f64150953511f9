//! Format of Cloud Logging's structured logs: one JSON object a line.
//!
//! <https://cloud.google.com/logging/docs/structured-logging>

use std::fmt;
use std::sync::OnceLock;

use message::json::Object;
use serde::Serialize;
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;
use tracing::field::{Field, Visit};
use tracing::{Event, Level, Subscriber};
use tracing_subscriber::fmt::format::Writer;
use tracing_subscriber::fmt::{FmtContext, FormatEvent, FormatFields};
use tracing_subscriber::registry::LookupSpan;

/// Field with the name of the service. A line about a message has its own, because several services
/// may share a process.
const SERVICE: &str = "service";

/// Names that every line of a process has.
#[derive(Debug, Default)]
pub(super) struct Names {
    /// Name of the service.
    pub(super) service: OnceLock<&'static str>,
    /// Project that traces belong to.
    pub(super) project: OnceLock<String>,
}

/// Format of a line: `severity`, `time`, `service`, `component` and `target`, then the event's own
/// fields, such as `message`. The fields of a trace get the names that link a line to its trace.
pub(super) struct CloudLogging {
    pub(super) names: &'static Names,
}

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
        let metadata = event.metadata();
        let mut line = Line::new(*metadata.level());
        if metadata.fields().field(SERVICE).is_none()
            && let Some(service) = self.names.service.get()
        {
            line.put(SERVICE, service);
        }
        line.put_target(metadata.target());
        line.project = self.names.project.get().map(String::as_str).filter(|name| !name.is_empty());
        event.record(&mut line);
        writeln!(writer, "{}", line.finish())
    }
}

/// Returns a warning without an event.
pub(super) fn warning(target: &str, message: &str, lines: u64) -> String {
    let mut line = Line::new(Level::WARN);
    line.put_target(target);
    line.put("message", message);
    line.put("lines", &lines);
    line.finish()
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

/// Line that grows by one field at a time.
struct Line<'a> {
    json: Object,
    project: Option<&'a str>,
}

impl Line<'_> {
    fn new(level: Level) -> Self {
        let mut line = Self { json: Object::with_capacity(256), project: None };
        line.put("severity", severity(level));
        // A time before the year 0 has no form. The clock of no machine shows one.
        line.put("time", &OffsetDateTime::now_utc().format(&Rfc3339).unwrap_or_default());
        line
    }

    /// Adds the module that logs, and its crate, which is the name that levels are set for.
    fn put_target(&mut self, target: &str) {
        let component = target.split("::").next().unwrap_or(target);
        self.put("component", component);
        self.put("target", target);
    }

    fn put(&mut self, name: &'static str, value: &(impl Serialize + ?Sized)) {
        // Texts, numbers and booleans always have a form in JSON.
        self.json.put(name, value).unwrap_or_default();
    }

    fn finish(self) -> String {
        String::from_utf8(self.json.finish()).unwrap_or_default()
    }

    /// Returns the name under which Cloud Logging expects a field. Without a project, a trace has no
    /// name there, and its fields keep theirs.
    fn name(&self, field: &Field) -> &'static str {
        match (field.name(), self.project) {
            ("span_id", Some(_)) => "logging.googleapis.com/spanId",
            ("trace_sampled", Some(_)) => "logging.googleapis.com/trace_sampled",
            // These names are taken.
            ("severity", _) => "event_severity",
            ("time", _) => "event_time",
            ("component", _) => "event_component",
            ("target", _) => "event_target",
            (name, _) => name,
        }
    }
}

impl Visit for Line<'_> {
    fn record_str(&mut self, field: &Field, value: &str) {
        match (field.name(), self.project) {
            ("trace", Some(project)) => {
                let trace = format!("projects/{project}/traces/{value}");
                self.put("logging.googleapis.com/trace", &trace);
            }
            _ => self.put(self.name(field), value),
        }
    }

    fn record_u64(&mut self, field: &Field, value: u64) {
        self.put(self.name(field), &value);
    }

    fn record_i64(&mut self, field: &Field, value: i64) {
        self.put(self.name(field), &value);
    }

    fn record_u128(&mut self, field: &Field, value: u128) {
        self.put(self.name(field), &value);
    }

    fn record_i128(&mut self, field: &Field, value: i128) {
        self.put(self.name(field), &value);
    }

    fn record_f64(&mut self, field: &Field, value: f64) {
        // JSON has no number for infinity or NaN. Both become null.
        self.put(self.name(field), &value);
    }

    fn record_bool(&mut self, field: &Field, value: bool) {
        self.put(self.name(field), &value);
    }

    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        self.put(self.name(field), &format!("{value:?}"));
    }
}

#[cfg(test)]
mod tests;
