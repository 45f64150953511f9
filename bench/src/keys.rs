//! Cost of many locations in icestore. Each batch key that is open at once has its own object.
//!
//! A backlog is spread over the locations, and each upload takes a given extra time. At first
//! memory fills, and all groups have the same size. The measurement begins when at least as many
//! messages were sent as are held. It ends when the last message was received, or at a time limit.

use std::collections::BTreeMap;
use std::fmt;
use std::time::{Duration, Instant};

use anyhow::{Context as _, bail};
use clap::Parser;
use e2e::cloud::Cloud;
use e2e::embedded::Embedded;
use e2e::metrics::{RECEIVED, SENT};
use e2e::names::RAW;
use e2e::settings::{ServiceSettings, merge};
use e2e::usage::{cpu_time, peak_megabytes};
use serde::Serialize;
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::time::sleep;

use crate::feed::Feed;
use crate::process;
use crate::service::Service;

/// Pause between two reads of the metrics.
const LOOK: Duration = Duration::from_millis(100);
/// Longest wait until as many messages were sent as are held.
const PATIENCE: Duration = Duration::from_secs(300);

/// Measures icestore with many locations and slow uploads.
#[derive(Debug, Clone, Parser)]
pub(crate) struct KeysArgs {
    /// Numbers of locations, which are batch keys.
    #[arg(long, value_delimiter = ',', default_values_t = [7, 1_000, 5_000, 20_000])]
    locations: Vec<u64>,
    /// Extra milliseconds that each upload takes.
    #[arg(long, value_delimiter = ',', default_values_t = [0, 50, 100])]
    millis: Vec<u64>,
    /// Messages of each run.
    #[arg(long, default_value_t = 600_000)]
    messages: u64,
    /// Bytes of a message.
    #[arg(long, default_value_t = 500)]
    bytes: usize,
    /// Longest measurement of a run, in seconds.
    #[arg(long, default_value_t = 20)]
    seconds: u64,
    /// Runs of each case; the median is reported.
    #[arg(long, default_value_t = 3)]
    repeats: usize,
    /// Settings of icestore that differ from the defaults, as JSON.
    #[arg(long, default_value = "{}")]
    settings: String,
    /// Measure the binaries in the folder of this one, without a build.
    #[arg(long)]
    pub(crate) no_build: bool,
}

/// Result of one run, or the median of several.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize)]
struct Run {
    locations: u64,
    millis: u64,
    messages_per_second: f64,
    objects_per_second: f64,
    messages_per_object: f64,
    cpu_us_per_message: f64,
    peak_rss_mb: f64,
}

/// Counts of icestore up to now.
#[derive(Debug, Clone, Copy)]
struct Progress {
    at: Instant,
    received: u64,
    sent: u64,
    objects: f64,
    cpu: Duration,
}

pub(crate) async fn measure(args: &KeysArgs) -> anyhow::Result<()> {
    let changes: Value = serde_json::from_str(&args.settings).context("read --settings")?;
    let mut runs: BTreeMap<(u64, u64), Vec<Run>> = BTreeMap::new();
    println!("Each run:\n{HEAD}");
    for _ in 0..args.repeats {
        for locations in &args.locations {
            let env = KeysEnv::start(args).await.context("start the environment")?;
            env.feed.spread(args.messages, args.bytes, *locations).await.context("feed")?;
            for millis in &args.millis {
                let case = (*locations, *millis);
                let run =
                    env.run(*locations, *millis, args, &changes).await.context("run icestore")?;
                println!("{run}");
                runs.entry(case).or_default().push(run);
            }
            env.stop().await?;
        }
    }
    println!("Medians:\n{HEAD}");
    runs.values().for_each(|runs| println!("{}", Run::median(runs)));
    Ok(())
}

/// Embedded cloud with a backlog, and with a subscription for each upload time.
struct KeysEnv {
    folder: TempDir,
    embedded: Embedded,
    feed: Feed,
}

impl KeysEnv {
    async fn start(args: &KeysArgs) -> anyhow::Result<Self> {
        let folder = tempfile::tempdir().context("create a folder")?;
        let embedded = Embedded::start(&folder.path().join("cloud")).await?;
        let cloud = Cloud::embedded(&embedded.url());
        cloud.create_topic(RAW).await?;
        for millis in &args.millis {
            cloud.create_subscription(&format!("after-{millis}"), RAW).await?;
        }
        let feed = Feed::new(&embedded.url(), RAW).await?;
        Ok(Self { folder, embedded, feed })
    }

    async fn run(
        &self,
        locations: u64,
        millis: u64,
        args: &KeysArgs,
        changes: &Value,
    ) -> anyhow::Result<Run> {
        let cloud = Cloud::embedded(&self.embedded.url());
        let bucket = format!("bucket-{millis}");
        cloud.create_bucket(&bucket).await?;
        let until = args.seconds * 1000 + 600_000;
        let delay = json!({
            "method": "storage.objects.insert", "kind": "delay", "millis": millis,
            "count": u32::MAX, "for_millis": until,
        });
        if millis > 0 {
            self.embedded.plan(&delay).await?;
        }
        let mut settings = ServiceSettings::new(&cloud, 0, None).json(Service::Icestore.name())?;
        settings["subscription"]["id"] = format!("after-{millis}").into();
        settings["dead_letters"] = "drop".into();
        settings["storage"]["bucket"] = bucket.into();
        merge(&mut settings, changes);
        let (mut process, _) =
            process::start(self.folder.path(), Service::Icestore, &settings).await?;
        let pid = process.pid().context("the process has ended")?;

        let started = Instant::now();
        let look = async || progress(&process, pid).await;
        let mut first = look().await?;
        while first.sent == 0 || first.sent < first.received - first.sent {
            if started.elapsed() > PATIENCE {
                bail!("{} messages are not enough, or {PATIENCE:?}", args.messages);
            }
            sleep(LOOK).await;
            first = look().await?;
        }
        let mut last = first;
        while last.received < args.messages
            && last.at - first.at < Duration::from_secs(args.seconds)
        {
            sleep(LOOK).await;
            last = look().await?;
        }
        let peak_rss_mb = peak_megabytes(pid)?;
        process.kill().await?;
        self.embedded.clear_faults().await?;
        Ok(Run::between(&first, &last, locations, millis, peak_rss_mb))
    }

    async fn stop(mut self) -> anyhow::Result<()> {
        self.embedded.kill().await
    }
}

async fn progress(process: &e2e::process::Process, pid: u32) -> anyhow::Result<Progress> {
    let metrics = process.metrics().await?;
    Ok(Progress {
        at: Instant::now(),
        received: metrics.count(RECEIVED),
        sent: metrics.count(SENT),
        objects: metrics.value("dataflow_pipeline_write_duration_seconds_count"),
        cpu: cpu_time(pid)?,
    })
}

impl Run {
    fn between(
        first: &Progress,
        last: &Progress,
        locations: u64,
        millis: u64,
        peak_rss_mb: f64,
    ) -> Self {
        let seconds = (last.at - first.at).as_secs_f64().max(f64::MIN_POSITIVE);
        let sent = (last.sent - first.sent) as f64;
        let objects = last.objects - first.objects;
        Self {
            locations,
            millis,
            messages_per_second: sent / seconds,
            objects_per_second: objects / seconds,
            messages_per_object: sent / objects.max(1.0),
            cpu_us_per_message: (last.cpu - first.cpu).as_secs_f64() * 1e6 / sent.max(1.0),
            peak_rss_mb,
        }
    }

    /// Returns the median of each figure, but the largest memory.
    fn median(runs: &[Self]) -> Self {
        let median = |of: fn(&Self) -> f64| {
            let mut values: Vec<_> = runs.iter().map(of).collect();
            values.sort_by(f64::total_cmp);
            values.get(values.len() / 2).copied().unwrap_or(0.0)
        };
        let one = runs.first().copied().unwrap_or_default();
        Self {
            messages_per_second: median(|run| run.messages_per_second),
            objects_per_second: median(|run| run.objects_per_second),
            messages_per_object: median(|run| run.messages_per_object),
            cpu_us_per_message: median(|run| run.cpu_us_per_message),
            peak_rss_mb: runs.iter().map(|run| run.peak_rss_mb).fold(0.0, f64::max),
            ..one
        }
    }
}

const HEAD: &str = "\
| locations | upload | messages/s | objects/s | messages an object | CPU us a message | peak RSS |
|---|---|---|---|---|---|---|";

/// Writes a row of Markdown.
impl fmt::Display for Run {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "| {} | {} ms | {:.0} | {:.1} | {:.1} | {:.1} | {:.0} MB |",
            self.locations,
            self.millis,
            self.messages_per_second,
            self.objects_per_second,
            self.messages_per_object,
            self.cpu_us_per_message,
            self.peak_rss_mb
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn progress(at: Instant, received: u64, sent: u64, objects: f64) -> Progress {
        Progress { at, received, sent, objects, cpu: Duration::from_millis(sent) }
    }

    #[test]
    fn what_was_sent_between_two_looks_counts() {
        let start = Instant::now();
        let first = progress(start, 500, 100, 2.0);
        let last = progress(start + Duration::from_secs(2), 9_000, 2_100, 42.0);

        let run = Run::between(&first, &last, 7, 50, 99.0);

        assert_eq!(run.messages_per_second, 1000.0);
        assert_eq!(run.objects_per_second, 20.0);
        assert_eq!(run.messages_per_object, 50.0);
        assert_eq!(run.cpu_us_per_message, 1000.0);
        assert_eq!(run.to_string(), "| 7 | 50 ms | 1000 | 20.0 | 50.0 | 1000.0 | 99 MB |");
    }

    #[test]
    fn a_median_keeps_the_largest_memory() {
        let run = |rate, peak| Run {
            messages_per_second: rate,
            peak_rss_mb: peak,
            locations: 7,
            ..Run::default()
        };

        let median = Run::median(&[run(3.0, 90.0), run(1.0, 95.0), run(2.0, 80.0)]);

        assert_eq!((median.messages_per_second, median.peak_rss_mb), (2.0, 95.0));
        assert_eq!(median.locations, 7);
    }
}
