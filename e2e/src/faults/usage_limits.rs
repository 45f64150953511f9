//! Checks the memory and the open files of replicas.

use std::collections::BTreeMap;

use super::observations::Observations;
use super::report::Report;

/// Most resident megabytes of a replica that does not report its memory limit.
const MAX_MEGABYTES: f64 = 150.0;
/// Most open files and sockets of a replica. At rest it has a few dozen.
///
/// Icestore uploads up to 64 objects at a time, each on a connection of its own. While links die
/// without a word, as many old connections wait for their time-outs, and idle ones for theirs.
const MAX_FILES: f64 = 250.0;

/// Reports the peak usage of each replica, and a failure if it is above the limit.
pub(super) fn check(report: &mut Report, observations: &Observations) {
    let mut most: BTreeMap<&str, (f64, f64)> = BTreeMap::new();
    for ((name, _), usage) in &observations.usage {
        let most = most.entry(name).or_default();
        for (_, megabytes, files) in &usage.points {
            *most = (most.0.max(*megabytes), most.1.max(*files));
        }
    }
    for (name, (megabytes, files)) in most {
        let bound = observations.allowed.get(name).copied().unwrap_or(MAX_MEGABYTES);
        let text = format!("{name}: at most {megabytes:.0} MB of {bound:.0}, {files} open files");
        if megabytes > bound || files > MAX_FILES {
            report.failures.push(format!("growth of {text}"));
        }
        report.memory.insert(name.to_owned(), (megabytes, bound));
        report.measures.push(text);
    }
}
