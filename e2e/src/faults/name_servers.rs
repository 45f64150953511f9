//! Fault: name servers do not answer. A process must still end within its grace period.

use std::net::{Ipv4Addr, UdpSocket};
use std::path::Path;
use std::process::Stdio;
use std::time::Duration;

use anyhow::Context as _;
use serde_json::Value;
use tokio::process::Command;
use tokio::time::{Instant, sleep, timeout};

use super::FaultContext;
use super::fault_env::{FaultEnv, REPLICATED};
use super::replica_settings::Timeouts;
use crate::names::POSTGRES;
use crate::process::free_port;
use crate::process::{binary, signal};

/// A name server on loopback that listens and never answers.
const NAME_SERVER: Ipv4Addr = Ipv4Addr::new(127, 0, 0, 77);
/// A host name that does not exist.
const HOST: &str = "nowhere.invalid";
/// Time for a process to look up names before it gets SIGTERM.
const ASKING: Duration = Duration::from_secs(4);
const GRACE: Duration = Duration::from_secs(5);
/// Extra time that Kubernetes gives beyond the grace period of the manifests.
const ALLOWANCE: Duration = Duration::from_secs(2);

/// Two name servers cannot listen on the same port.
static ONE_AT_A_TIME: tokio::sync::Mutex<()> = tokio::sync::Mutex::const_new(());

/// Starts one process of each service where no name can be looked up, and ends it.
pub(super) async fn silent(context: &FaultContext) -> anyhow::Result<()> {
    let _alone = ONE_AT_A_TIME.lock().await;
    let folder = context.env.folder().join("names");
    std::fs::create_dir_all(&folder).context("create a folder")?;
    let Some(_server) = mute_server() else {
        context.measure(skipped("no name server may listen on port 53 of loopback"));
        return Ok(());
    };
    let resolv = folder.join("resolv.conf");
    let text = format!("nameserver {NAME_SERVER}\noptions timeout:30 attempts:5\n");
    std::fs::write(&resolv, text).context("write resolv.conf")?;
    if !may_unshare(&resolv).await {
        context.measure(skipped("the kernel does not allow `unshare --mount`"));
        return Ok(());
    }
    let ended = REPLICATED.map(|service| ends(context, service, &folder));
    futures::future::try_join_all(ended).await.map(drop)
}

fn skipped(why: &str) -> String {
    format!("SKIPPED no-name-server: {why}")
}

fn mute_server() -> Option<UdpSocket> {
    UdpSocket::bind((NAME_SERVER, 53)).ok()
}

/// Builds a command that runs a program in its own mount namespace, with this `resolv.conf`.
fn without_names(resolv: &Path, program: &Path) -> Command {
    let mut command = Command::new("unshare");
    let script = r#"mount --bind "$0" /etc/resolv.conf && exec "$@""#;
    command.args(["--mount", "sh", "-c", script]).arg(resolv).arg(program);
    command.stdin(Stdio::null()).stdout(Stdio::null()).kill_on_drop(true);
    command
}

async fn may_unshare(resolv: &Path) -> bool {
    let mut command = without_names(resolv, Path::new("true"));
    command.stderr(Stdio::null()).status().await.is_ok_and(|status| status.success())
}

async fn ends(context: &FaultContext, service: &'static str, folder: &Path) -> anyhow::Result<()> {
    let settings = nowhere(service, &context.env)?;
    let config = folder.join(format!("{service}.yaml"));
    std::fs::write(&config, serde_json::to_vec(&settings)?).context("write settings")?;
    let log = std::fs::File::create(config.with_extension("log")).context("open the log")?;
    let mut command = without_names(&folder.join("resolv.conf"), &binary(service)?);
    command.arg("--config").arg(&config).env("PORT", free_port()?.to_string()).stderr(log);
    let mut process = command.spawn().with_context(|| format!("start {service}"))?;
    sleep(ASKING).await;
    if let Some(status) = process.try_wait()? {
        context.fail(format!("{service} ended by itself without names: {status}"));
        return Ok(());
    }
    let asked_at = Instant::now();
    signal(&process, "TERM")?;
    let ended = timeout(GRACE + ALLOWANCE, process.wait()).await;
    let took = asked_at.elapsed();
    match ended {
        Ok(status) => {
            let status = status.context("wait for the process")?;
            context.measure(format!("{service} without names ended after {took:.1?}: {status}"));
        }
        Err(_) => {
            context.fail(format!("{service} without names still runs {took:.1?} after SIGTERM"));
            process.kill().await.context("kill the process")?;
        }
    }
    Ok(())
}

/// Builds the settings of a replica whose peers all have a host name that cannot be looked up.
fn nowhere(service: &str, env: &FaultEnv) -> anyhow::Result<Value> {
    const ORDINAL: u32 = 9;
    let settings = env.settings_of(service, ORDINAL, Timeouts::Short)?;
    let text = settings.to_string().replace("://127.0.0.1:", &format!("://{HOST}:"));
    let mut settings: Value = serde_json::from_str(&text).context("read settings")?;
    if service == POSTGRES {
        settings["postgres"]["host"] = HOST.into();
    }
    settings["grace_period"] = humantime(GRACE).into();
    if service == "ingestion" {
        // It may not be longer than the grace period.
        settings["http_ingest"]["timeout"] = humantime(GRACE).into();
    }
    Ok(settings)
}

fn humantime(time: Duration) -> String {
    format!("{}s", time.as_secs())
}
