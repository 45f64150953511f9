//! Reads the resource usage of a process from `/proc`.

use std::time::Duration;

use anyhow::Context as _;

/// Returns the user and system time so far: fields 14 and 15 of `/proc/PID/stat`.
///
/// # Errors
/// Fails when there is no such process.
pub fn cpu_time(pid: u32) -> anyhow::Result<Duration> {
    ticks(&pid.to_string(), 11)
}

/// Returns the user and system time of all ended child processes: fields 16 and 17 of
/// `/proc/self/stat`.
///
/// # Errors
/// Fails when the system does not tell.
pub fn children_cpu_time() -> anyhow::Result<Duration> {
    ticks("self", 13)
}

/// Returns the peak of resident memory, in MB of 1,024 KB.
///
/// # Errors
/// Fails when there is no such process.
pub fn peak_megabytes(pid: u32) -> anyhow::Result<f64> {
    megabytes(pid, "VmHWM:")
}

/// Returns the current resident memory, in MB of 1,024 KB.
///
/// # Errors
/// Fails when there is no such process.
pub fn resident_megabytes(pid: u32) -> anyhow::Result<f64> {
    megabytes(pid, "VmRSS:")
}

/// Returns the number of open files and sockets.
///
/// # Errors
/// Fails when there is no such process.
pub fn open_files(pid: u32) -> anyhow::Result<usize> {
    Ok(std::fs::read_dir(format!("/proc/{pid}/fd")).context("count open files")?.count())
}

fn megabytes(pid: u32, field: &str) -> anyhow::Result<f64> {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).context("read memory")?;
    let line = status.lines().find_map(|line| line.strip_prefix(field)).context("read memory")?;
    let kilobytes: f64 = line.trim().trim_end_matches(" kB").parse().context("read memory")?;
    Ok(kilobytes / 1024.0)
}

/// Returns the sum of two neighbouring fields of `/proc/PID/stat`, in ticks of 10 ms. `after_name`
/// counts the fields after the process name.
fn ticks(process: &str, after_name: usize) -> anyhow::Result<Duration> {
    const TICK: Duration = Duration::from_millis(10);
    let stat = std::fs::read_to_string(format!("/proc/{process}/stat")).context("read CPU time")?;
    let fields = stat.rsplit_once(')').context("read CPU time")?.1;
    let ticks = fields.split_whitespace().skip(after_name).take(2).map(str::parse::<u32>);
    Ok(TICK * ticks.sum::<Result<u32, _>>().context("read CPU time")?)
}
