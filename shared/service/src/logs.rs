//! Logs. On a terminal they are text for people. Elsewhere each line is a JSON object for Cloud
//! Logging.

#[cfg(test)]
mod buffer;
mod cloud_logging;
mod levels;
mod lines;

use std::backtrace::{Backtrace, BacktraceStatus};
use std::env::VarError;
use std::fmt;
use std::io::IsTerminal as _;
use std::sync::OnceLock;
use std::time::Duration;

use tracing::{Event, Subscriber, error, warn};
use tracing_subscriber::EnvFilter;
use tracing_subscriber::fmt::format::{Format, Full, Writer};
use tracing_subscriber::fmt::{FmtContext, FormatEvent, FormatFields};
use tracing_subscriber::registry::LookupSpan;

use cloud_logging::{CloudLogging, Names};
pub(crate) use levels::{Levels, NotChanged};
use lines::Lines;
pub(crate) use lines::{flush, lost};

/// Variable that sets the log level.
const RUST_LOG: &str = "RUST_LOG";
/// Log level without [`RUST_LOG`]. Firestore's client logs every client that it creates, so it is
/// limited to warnings.
const LEVEL: &str = "info,firestore=warn";

/// Names that each line of this process has.
static NAMES: Names = Names { service: OnceLock::new(), project: OnceLock::new() };
/// Levels of this process, if [`install`] has set up its logs.
static LEVELS: OnceLock<Levels> = OnceLock::new();

/// Sends this process's logs to standard error, at the level of `RUST_LOG`. Without `RUST_LOG` the
/// level is `info`, and `warn` for Firestore's client. The same holds if `RUST_LOG` is wrong, and a
/// line says so. Each line has the name of the service.
///
/// No thread waits for standard error. While its reader does not read, lines are queued. When the
/// queue is full, lines are lost and counted. So call [`flush`] before the process ends.
pub(crate) fn install(service: &'static str) {
    // An error means that the name is set already.
    let _ = NAMES.service.set(service);
    let value = std::env::var(RUST_LOG);
    let (filter, current, wrong) = filter(value);
    let is_terminal = std::io::stderr().is_terminal();
    let lines = Lines::of_process(if is_terminal { lost_for_people } else { lost_for_programs });
    let form = if is_terminal {
        LineForm::People(Format::default())
    } else {
        LineForm::Programs(CloudLogging { names: &NAMES })
    };
    let builder = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_ansi(is_terminal)
        .with_writer(move || lines.clone())
        .event_format(form)
        .with_filter_reloading();
    let levels = Levels::new(current, builder.reload_handle());
    // An error means that the embedding program has set up logs already.
    if tracing::subscriber::set_global_default(builder.finish()).is_ok() {
        LEVELS.get_or_init(|| levels);
        if !is_terminal {
            std::panic::set_hook(Box::new(log_panic));
        }
    }
    if let Some(wrong) = wrong {
        warn!("{wrong}");
    }
}

/// Returns the levels of this process. Returns nothing if another program has set up its logs.
pub(crate) fn levels() -> Option<Levels> {
    LEVELS.get().cloned()
}

/// Sets the project that traces belong to. Only the first call has an effect.
pub(crate) fn name_project(project: &str) {
    // An error means that the project is set already.
    let _ = NAMES.project.set(project.to_owned());
}

/// Form of a line.
enum LineForm {
    /// Text on a terminal.
    People(Format<Full>),
    /// JSON everywhere else.
    Programs(CloudLogging),
}

impl<S, N> FormatEvent<S, N> for LineForm
where
    S: Subscriber + for<'a> LookupSpan<'a>,
    N: for<'a> FormatFields<'a> + 'static,
{
    fn format_event(
        &self,
        context: &FmtContext<'_, S, N>,
        writer: Writer<'_>,
        event: &Event<'_>,
    ) -> fmt::Result {
        match self {
            Self::People(form) => form.format_event(context, writer, event),
            Self::Programs(form) => form.format_event(context, writer, event),
        }
    }
}

/// Returns the filter of a value of [`RUST_LOG`] with its text, and what is wrong with the value.
fn filter(value: Result<String, VarError>) -> (EnvFilter, String, Option<String>) {
    let wrong = match value {
        Ok(directives) => match EnvFilter::try_new(&directives) {
            Ok(filter) => return (filter, directives, None),
            Err(error) => format!("{RUST_LOG} is `{directives}`: {error}"),
        },
        Err(VarError::NotPresent) => return (EnvFilter::new(LEVEL), LEVEL.to_owned(), None),
        Err(error @ VarError::NotUnicode(_)) => format!("{RUST_LOG}: {error}"),
    };
    let wrong = format!("{wrong}; {}; the level is `{LEVEL}`", levels::LIKE);
    (EnvFilter::new(LEVEL), LEVEL.to_owned(), Some(wrong))
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
    let message = "log lines were lost: nobody read standard error";
    cloud_logging::warning(module_path!(), message, lines)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_level_that_cannot_be_read_is_replaced_and_named() {
        let filtered = |value: &str| {
            let (filter, current, wrong) = filter(Ok(value.into()));
            (filter.to_string(), current, wrong.unwrap_or_default())
        };

        let right = "pubsub=debug".to_owned();
        assert_eq!(filtered("pubsub=debug"), (right.clone(), right, String::new()));
        let (filter, current, wrong) = filtered("pubsub=loud");
        assert_eq!(filter, EnvFilter::new(LEVEL).to_string());
        assert_eq!(current, LEVEL);
        assert!(wrong.starts_with("RUST_LOG is `pubsub=loud`: "), "{wrong}");
        let (_, _, wrong) = super::filter(Err(VarError::NotPresent));
        assert_eq!(wrong, None);
    }
}
