//! Collected faults of settings.

use std::collections::BTreeMap;
use std::fmt;
use std::ops::RangeInclusive;
use std::time::Duration;

use humantime_serde::re::humantime::format_duration;

use super::host;

/// Start of the origin of a value that a variable sets.
pub(super) const OF_VARIABLE: &str = "variable ";

/// Faults of settings. Each one names its key, the origin of its value, and what would be right.
#[derive(Debug, Default)]
pub struct Faults {
    found: Vec<String>,
    /// Origin of values, by key.
    pub(super) origins: BTreeMap<String, String>,
    /// Keys whose fault is already reported. Faults of these keys or below them are only
    /// consequences.
    told: Vec<String>,
}

impl Faults {
    /// Creates a report of one fault without a key.
    pub(crate) fn of_line(line: String) -> Self {
        Self { found: vec![line], ..Self::default() }
    }

    /// Reports a value. `right` says what would be right, such as `must be 1 to 1000, is 0`.
    pub fn add(&mut self, key: &str, right: impl fmt::Display) {
        if !self.told.iter().any(|told| is_at_or_below(key, told)) {
            let origin = self.origin(key);
            self.found.push(format!("{key}: {right}{origin}"));
        }
    }

    /// Reports a value whose guarantee is weaker than at least once, for `--strict`. `loses` says which
    /// messages it loses, and `right` what would lose none.
    pub fn add_weak(&mut self, key: &str, loses: impl fmt::Display, right: impl fmt::Display) {
        self.add(key, format_args!("{loses}; with --strict: {right}"));
    }

    /// Reports a value that could not be read. Further faults of this key, or below it, are not
    /// reported.
    pub(super) fn add_unreadable(&mut self, key: &str, right: impl fmt::Display) {
        self.add(key, right);
        self.told.push(key.to_owned());
    }

    /// Returns whether a value at this key, or below it, could not be read. Checks that depend on
    /// it have no meaning then.
    #[must_use]
    pub fn is_unreadable(&self, key: &str) -> bool {
        self.told.iter().any(|told| is_at_or_below(told, key))
    }

    /// Returns whether a file sets the value of this key. A file `.env` sets variables, and no values.
    #[must_use]
    pub fn is_from_file(&self, key: &str) -> bool {
        self.origins.get(key).is_some_and(|origin| !origin.starts_with(OF_VARIABLE))
    }

    /// Reports a fault without a key, with its text unchanged.
    pub(super) fn add_line(&mut self, line: String) {
        self.found.push(line);
    }

    /// Reports a value unless `is_right`.
    pub fn require(&mut self, is_right: bool, key: &str, right: impl fmt::Display) {
        if !is_right {
            self.add(key, right);
        }
    }

    /// Reports a number outside of its range.
    pub fn range<T: PartialOrd + fmt::Display>(
        &mut self,
        key: &str,
        value: T,
        range: RangeInclusive<T>,
    ) {
        let right = format_args!("must be {} to {}, is {value}", range.start(), range.end());
        self.require(range.contains(&value), key, right);
    }

    /// Reports a duration outside of its range.
    pub fn duration(&mut self, key: &str, value: Duration, range: RangeInclusive<Duration>) {
        let (min, max) = (format_duration(*range.start()), format_duration(*range.end()));
        let right = format_args!("must be {min} to {max}, is {}", format_duration(value));
        self.require(range.contains(&value), key, right);
    }

    /// Reports an invalid name. `wrong` says what is wrong with it, if anything.
    pub(super) fn name(&mut self, key: &str, wrong: Option<String>) {
        if let Some(wrong) = wrong {
            self.add(key, wrong);
        }
    }

    /// Reports an invalid address to listen on.
    pub fn host(&mut self, key: &str, host: &str) {
        if let Err(right) = host::check(host) {
            self.add(key, right);
        }
    }

    /// Reports invalid limits of a pipeline, whose section is `key`.
    pub fn limits(&mut self, key: &str, limits: &pipeline::Limits) {
        for (name, right) in limits.faults() {
            self.add(&format!("{key}.{name}"), format_args!("must be {right}"));
        }
    }

    /// Returns every fault found, one line each.
    #[must_use]
    pub fn lines(&self) -> &[String] {
        &self.found
    }

    /// Returns the origin of a value in brackets. Returns nothing for a default.
    fn origin(&self, key: &str) -> String {
        // A missing value has no origin. Its nearest section that has one names the file.
        let mut at = key;
        loop {
            if let Some(origin) = self.origins.get(at) {
                return format!(" (from {origin})");
            }
            match at.rfind(['.', '[']) {
                Some(end) => at = &at[..end],
                None => return String::new(),
            }
        }
    }
}

/// Returns whether a key is this section or is in it.
fn is_at_or_below(key: &str, section: &str) -> bool {
    let rest = key.strip_prefix(section);
    rest.is_some_and(|rest| rest.is_empty() || rest.starts_with(['.', '[']))
}

impl fmt::Display for Faults {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.found.iter().try_for_each(|fault| writeln!(f, "{fault}"))
    }
}
