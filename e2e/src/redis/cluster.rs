//! A cluster of Redis: three masters that share the keys.

use super::{Redis, until_said};
use crate::mosquitto::free_port;

/// Slots of each master.
const SLOTS: [(u16, u16); 3] = [(0, 5460), (5461, 10922), (10923, 16383)];

/// A cluster of three masters on free ports of loopback. Dropping it kills them.
#[derive(Debug)]
pub struct Cluster {
    /// Masters of the cluster.
    pub nodes: Vec<Redis>,
}

impl Cluster {
    /// Starts the cluster, and returns when each master knows which master has which keys.
    ///
    /// # Errors
    /// Fails when redis-server is not installed, or the masters do not find each other.
    pub async fn start() -> anyhow::Result<Self> {
        let mut nodes = Vec::new();
        for _ in SLOTS {
            let bus = free_port()?.to_string();
            nodes.push(
                Redis::start_with(&["--cluster-enabled", "yes", "--cluster-port", &bus]).await?,
            );
            if let [first, .., last] = &nodes[..] {
                let meet = format!("CLUSTER MEET 127.0.0.1 {} {bus}", last.port());
                first.command(&meet).await?;
            }
        }
        for (node, (from, to)) in nodes.iter().zip(SLOTS) {
            node.command(&format!("CLUSTER ADDSLOTSRANGE {from} {to}")).await?;
        }
        for node in &nodes {
            until_said(node.port(), "CLUSTER INFO", "cluster_state:ok").await?;
            until_said(node.port(), "CLUSTER INFO", "cluster_size:3").await?;
        }
        Ok(Self { nodes })
    }
}
