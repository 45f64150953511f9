//! Levels of the log, which can be changed while the process runs.

use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};

use tracing::{Level, enabled, warn};
use tracing_subscriber::EnvFilter;
use tracing_subscriber::filter::{Directive, LevelFilter};
use tracing_subscriber::reload::{self, Handle};

/// Form of right levels, for errors.
pub(crate) const LIKE: &str = "must be levels such as `debug` or `info,pubsub=debug`";

/// Levels of a subscriber. Clones change the same one.
///
/// A line below its level costs what it cost before: the filter is asked once per place in the code,
/// and again after each change.
#[derive(Clone)]
pub(crate) struct Levels {
    current: Arc<Mutex<String>>,
    apply: Arc<dyn Fn(EnvFilter) -> Result<(), reload::Error> + Send + Sync>,
}

/// Levels that were not changed, and the reason.
#[derive(Debug)]
pub(crate) enum NotChanged {
    /// A directive is wrong.
    Wrong(String),
    /// The subscriber is gone.
    Gone(reload::Error),
}

impl Levels {
    /// Creates the levels of a subscriber, which are `current` now.
    pub(super) fn new<S: 'static>(current: String, handle: Handle<EnvFilter, S>) -> Self {
        let apply = Arc::new(move |filter: EnvFilter| handle.reload(filter));
        Self { current: Arc::new(Mutex::new(current)), apply }
    }

    /// Returns the levels in the form of `RUST_LOG`.
    pub(crate) fn current(&self) -> String {
        self.current.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Changes the levels.
    ///
    /// # Errors
    /// A directive is wrong, or the subscriber is gone. The levels stay as they are.
    pub(crate) fn set(&self, directives: &str) -> Result<(), NotChanged> {
        let filter = parse(directives).map_err(NotChanged::Wrong)?;
        let mut current = self.current.lock().unwrap_or_else(PoisonError::into_inner);
        let directives = directives.trim();
        // The line is written under the levels that show it: the ones before, or else the new ones.
        let log = || warn!(before = *current, levels = directives, "the levels of the log change");
        let is_shown = enabled!(Level::WARN);
        if is_shown {
            log();
        }
        (self.apply)(filter).map_err(NotChanged::Gone)?;
        if !is_shown {
            log();
        }
        directives.clone_into(&mut current);
        Ok(())
    }
}

#[cfg(test)]
impl Levels {
    /// Returns the levels of a subscriber. They can change as long as the second value lives.
    pub(crate) fn for_tests(current: &str) -> (Self, Box<dyn std::any::Any + Send>) {
        let builder = tracing_subscriber::fmt().with_env_filter(current).with_filter_reloading();
        let levels = Self::new(current.to_owned(), builder.reload_handle());
        (levels, Box::new(builder.finish()))
    }
}

impl fmt::Debug for Levels {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Levels").field("current", &self.current()).finish_non_exhaustive()
    }
}

/// Reads levels. It is stricter than `RUST_LOG`, which takes a mistyped level for a module.
///
/// # Errors
/// Names the first wrong directive.
fn parse(directives: &str) -> Result<EnvFilter, String> {
    let mut filter = EnvFilter::default();
    for directive in directives.split(',').map(str::trim) {
        let wrong = |why: &str| format!("`{directive}` {why}; {LIKE}");
        if directive.is_empty() {
            return Err(wrong("is empty"));
        }
        if directive.contains(['[', ']', '{', '}']) {
            return Err(wrong("is for spans, which the services do not have"));
        }
        if !directive.contains('=') && directive.parse::<LevelFilter>().is_err() {
            return Err(wrong("is no level: off, error, warn, info, debug or trace"));
        }
        let parsed: Directive =
            directive.parse().map_err(|error| wrong(&format!("is wrong: {error}")))?;
        filter = filter.add_directive(parsed);
    }
    Ok(filter)
}

#[cfg(test)]
mod tests {
    use tracing::{debug, info};

    use super::super::buffer::Buffer;
    use super::*;

    #[test]
    fn levels_of_a_module_change_while_the_process_runs() {
        let buffer = Buffer::default();
        let writer = buffer.clone();
        let builder = tracing_subscriber::fmt()
            .with_env_filter("info")
            .with_writer(move || writer.clone())
            .with_ansi(false)
            .without_time()
            .with_filter_reloading();
        let levels = Levels::new("info".into(), builder.reload_handle());
        let log = |step: &str| {
            debug!("{step}");
            debug!(target: "pubsub::source", "{step} pubsub");
        };

        tracing::subscriber::with_default(builder.finish(), || {
            log("first");
            levels.set(" info,pubsub=debug ").unwrap();
            log("second");
            levels.set("debug").unwrap();
            log("third");
            levels.set("off").unwrap();
            info!("fourth");
            levels.set("warn").unwrap();
        });

        assert_eq!(levels.current(), "warn");
        let is_change = |line: &String| line.contains("the levels of the log change");
        let (changes, lines): (Vec<_>, Vec<_>) = buffer.lines().into_iter().partition(is_change);
        assert_eq!(changes.len(), 4, "also from and to levels that hide lines: {changes:?}");
        let said: Vec<_> = lines.iter().map(|line| line.split(": ").last().unwrap()).collect();
        assert_eq!(said, ["second pubsub", "third", "third pubsub"], "{lines:?}");
    }

    #[test]
    fn a_wrong_directive_is_named_and_changes_nothing() {
        let (levels, _subscriber) = Levels::for_tests("info");

        for (given, named) in [
            ("info,pubsub=loud", "`pubsub=loud` is wrong: "),
            ("inof", "`inof` is no level"),
            ("info,", "`` is empty"),
            ("", "`` is empty"),
            ("info,[span{a=1}]=debug", "`[span{a=1}]=debug` is for spans"),
        ] {
            let Err(NotChanged::Wrong(why)) = levels.set(given) else { panic!("{given} is taken") };
            assert!(why.starts_with(named) && why.ends_with(LIKE), "{why}");
        }
        assert_eq!(levels.current(), "info");
    }

    #[test]
    fn without_its_subscriber_nothing_can_change() {
        let (levels, subscriber) = Levels::for_tests("info");
        drop(subscriber);

        assert!(matches!(levels.set("debug"), Err(NotChanged::Gone(_))));
        assert_eq!(levels.current(), "info");
    }
}
