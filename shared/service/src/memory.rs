//! Estimate of the memory that settings allow, compared with the container's limit.
//!
//! The estimate is an upper bound. It assumes that every bounded item is at its bound, and counts
//! each copy in memory. Its purpose is to predict whether the process would be killed, not to bill
//! it.

use std::fs;
use std::path::{Component, Path, PathBuf};

use serde::Serialize;
use serde_json::{Value, json};
use tracing::warn;

const MIB: u64 = 1024 * 1024;

/// Memory of an idle process: code, threads, clients and their connections.
const PROCESS: u64 = 40 * MIB;
/// Memory that the allocator holds beyond the used memory, in percent. It rounds requests up to
/// other sizes.
const SLACK_PERCENT: u64 = 25;
/// Data that a pull stream reads ahead of the pipeline: an HTTP/2 window and one response.
const STREAM: u64 = 4 * MIB;
/// Requests about leases, with 32,000 ids at most, and answers that Pub/Sub has not confirmed yet. The
/// fault test saw 15 MB beyond what was counted without it.
const LEASES: u64 = 24 * MIB;

/// Memory that one setting allows.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Share {
    /// Name of the setting. `process` for memory that no setting bounds.
    pub setting: &'static str,
    /// Value of the setting, if it is a size. A smaller value needs less memory.
    #[serde(skip)]
    pub value: Option<u64>,
    /// Memory in bytes.
    pub bytes: u64,
}

impl Share {
    /// Returns the share of a setting in bytes that is in memory `percent / 100` times.
    #[must_use]
    pub fn of_size(setting: &'static str, value: usize, percent: u64) -> Self {
        let value = value as u64;
        let bytes = with_slack(value.saturating_mul(percent) / 100);
        Self { setting, value: Some(value), bytes }
    }

    /// Returns the share of a setting that counts items of `each` bytes.
    #[must_use]
    pub fn of_count(setting: &'static str, count: usize, each: u64) -> Self {
        let bytes = with_slack((count as u64).saturating_mul(each));
        Self { setting, value: None, bytes }
    }

    /// Returns the share of an idle process.
    #[must_use]
    pub fn of_process() -> Self {
        Self { setting: "process", value: None, bytes: PROCESS }
    }

    /// Returns the share of the data that `streams` pull streams read ahead, and of the requests about
    /// their leases.
    #[must_use]
    pub fn of_streams(streams: usize) -> Self {
        let mut share = Self::of_count("subscription.streams", streams, STREAM);
        share.bytes = share.bytes.saturating_add(LEASES);
        share
    }
}

fn with_slack(bytes: u64) -> u64 {
    bytes.saturating_add(bytes.saturating_mul(SLACK_PERCENT) / 100)
}

/// Returns the shares of a pipeline whose sink makes `copies` of a batch while it writes it. The
/// settings are in the section `pipeline`.
///
/// - Messages, until they are settled: `max_bytes_in_flight`.
/// - Their records in batches, open or being written: `max_batch_memory`.
/// - Requests: `copies` of each batch that is being written. That is `lanes` times `max_writes`
///   times `batch.max_bytes`, and at most the memory of all batches.
#[must_use]
pub fn of_pipeline(limits: &pipeline::Limits, copies: u64) -> Vec<Share> {
    let writes = limits.lane_count().saturating_mul(limits.max_writes);
    let written = writes.saturating_mul(limits.batch.max_bytes).min(limits.max_batch_memory);
    let requests = Share::of_size("pipeline.batch.max_bytes", written, copies * 100);
    vec![
        Share::of_size("pipeline.max_bytes_in_flight", limits.max_bytes_in_flight, 100),
        Share::of_size("pipeline.max_batch_memory", limits.max_batch_memory, 100),
        Share { value: Some(limits.batch.max_bytes as u64), ..requests },
    ]
}

/// Memory that settings allow, and the memory that exists.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Account {
    shares: Vec<Share>,
    needed: u64,
    limit: Option<u64>,
}

impl Account {
    /// Compares the memory that settings allow with the limit of this container. `needed` is the
    /// sum of the shares.
    pub(crate) fn of(shares: Vec<Share>, needed: u64) -> Self {
        Self { shares, needed, limit: limit_below(Path::new("/")) }
    }

    /// Returns the report for `/status`.
    pub(crate) fn report(&self) -> Value {
        json!({
            "needed_bytes": self.needed,
            "limit_bytes": self.limit,
            "shares": self.shares,
            "advice": self.advice(),
        })
    }

    /// Logs a warning if the settings allow more memory than exists.
    pub(crate) fn warn(&self) {
        if let Some(advice) = self.advice() {
            warn!(needed_bytes = self.needed, limit_bytes = self.limit, "{advice}");
        }
    }

    /// Returns the lines for `check`: the sum, and a warning with advice if needed.
    pub(crate) fn lines(&self) -> Vec<String> {
        if self.shares.is_empty() {
            return Vec::new();
        }
        let shares = self.shares.iter();
        let shares = shares.map(|share| format!("{} {}", share.setting, mib(share.bytes)));
        let parts = shares.collect::<Vec<_>>().join(", ");
        let limit = match self.limit {
            Some(limit) => format!("the container's limit is {}", mib(limit)),
            None => "the container has no limit".into(),
        };
        let sum = format!("memory: at most {} ({parts}); {limit}", mib(self.needed));
        let warning = self.advice().map(|advice| format!("WARNING: {advice}"));
        std::iter::once(sum).chain(warning).collect()
    }

    /// Returns advice if the settings allow more memory than exists.
    fn advice(&self) -> Option<String> {
        let limit = self.limit.filter(|limit| *limit < self.needed)?;
        let too_much =
            format!("settings allow {} of memory, the limit is {}", mib(self.needed), mib(limit));
        let sizes = || self.shares.iter().filter(|share| share.value.is_some());
        let of_sizes: u64 = sizes().map(|share| share.bytes).sum();
        let room = limit.saturating_sub(self.needed - of_sizes);
        if room < of_sizes / 10 {
            return Some(format!("{too_much}: raise the limit to {}", mib(self.needed)));
        }
        let lower = |share: &Share| {
            let value = u128::from(share.value.unwrap_or(0));
            let lower = value * u128::from(room) / u128::from(of_sizes);
            let rounded = if lower > u128::from(MIB) { lower / 65_536 * 65_536 } else { lower };
            format!("{} to {rounded}", share.setting)
        };
        let all = sizes().map(lower).collect::<Vec<_>>().join(", ");
        Some(format!("{too_much}: raise the limit to {}, or lower {all}", mib(self.needed)))
    }
}

fn mib(bytes: u64) -> String {
    format!("{} MiB", bytes.div_ceil(MIB))
}

/// Returns the lowest limit of the control groups that contain this process, of version 2 or 1.
/// Returns `None` if there is no limit.
fn limit_below(root: &Path) -> Option<u64> {
    let groups = fs::read_to_string(root.join("proc/self/cgroup")).ok()?;
    let limits = groups.lines().filter_map(|line| {
        let mut parts = line.splitn(3, ':').skip(1);
        let (controllers, group) = (parts.next()?, parts.next()?);
        let (mount, file) = match controllers {
            "" => ("sys/fs/cgroup", "memory.max"),
            all if all.split(',').any(|one| one == "memory") => {
                ("sys/fs/cgroup/memory", "memory.limit_in_bytes")
            }
            _ => return None,
        };
        limit_of(&root.join(mount), group, file)
    });
    limits.min()
}

/// Returns the lowest limit of a group and its parents. A container may see its own group as the
/// root.
fn limit_of(mount: &Path, group: &str, file: &str) -> Option<u64> {
    /// Version 1 writes a value of about 2^63 if there is no limit.
    const NO_LIMIT: u64 = 1 << 60;
    let names = Path::new(group).components();
    let names = names.filter(|name| matches!(name, Component::Normal(_)));
    let group: PathBuf = names.collect();
    let limits = group.ancestors().filter_map(|group| {
        let text = fs::read_to_string(mount.join(group).join(file)).ok()?;
        // `max` means no limit, and does not parse as a number.
        text.trim().parse().ok().filter(|limit| *limit < NO_LIMIT)
    });
    limits.min()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Returns a root folder with these files.
    fn root(files: &[(&str, &str)]) -> tempfile::TempDir {
        let root = tempfile::tempdir().unwrap();
        for (path, text) in files {
            let path = root.path().join(path);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, text).unwrap();
        }
        root
    }

    #[test]
    fn the_least_limit_of_a_group_and_its_parents_counts() {
        let v2 = root(&[
            ("proc/self/cgroup", "0::/pods/one\n"),
            ("sys/fs/cgroup/pods/one/memory.max", "max\n"),
            ("sys/fs/cgroup/pods/memory.max", "268435456\n"),
            ("sys/fs/cgroup/memory.max", "1073741824\n"),
        ]);
        let v1 = root(&[
            ("proc/self/cgroup", "5:cpu,cpuacct:/\n4:memory:/pods/one\n0::/\n"),
            ("sys/fs/cgroup/memory/pods/one/memory.limit_in_bytes", "134217728\n"),
            ("sys/fs/cgroup/memory/memory.limit_in_bytes", "9223372036854771712\n"),
        ]);

        assert_eq!(limit_below(v2.path()), Some(268_435_456));
        assert_eq!(limit_below(v1.path()), Some(134_217_728));
    }

    #[test]
    fn no_limit_is_none() {
        let unlimited =
            root(&[("proc/self/cgroup", "0::/\n"), ("sys/fs/cgroup/memory.max", "max\n")]);

        assert_eq!(limit_below(unlimited.path()), None);
        assert_eq!(limit_below(root(&[]).path()), None);
    }

    fn account(limit: Option<u64>) -> Account {
        let shares = vec![
            Share { setting: "process", value: None, bytes: 40 * MIB },
            Share { setting: "a", value: Some(64 * MIB), bytes: 80 * MIB },
            Share { setting: "b", value: Some(32 * MIB), bytes: 80 * MIB },
        ];
        Account { shares, needed: 200 * MIB, limit }
    }

    #[test]
    fn what_does_not_fit_is_told_with_values_that_would() {
        let told = account(Some(120 * MIB)).lines();

        let expected = [
            "memory: at most 200 MiB (process 40 MiB, a 80 MiB, b 80 MiB); the container's limit is \
             120 MiB",
            "WARNING: settings allow 200 MiB of memory, the limit is 120 MiB: raise the limit to 200 \
             MiB, or lower a to 33554432, b to 16777216",
        ];
        assert_eq!(told, expected);
        assert!(account(Some(42 * MIB)).lines()[1].ends_with("raise the limit to 200 MiB"));
    }

    #[test]
    fn what_fits_is_no_warning() {
        assert_eq!(account(Some(200 * MIB)).lines().len(), 1);
        assert_eq!(account(None).lines().len(), 1);
        assert_eq!(account(None).report()["advice"], Value::Null);
    }
}
