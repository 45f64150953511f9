//! A cluster of Redis: three masters that share the keys.

use std::path::Path;

use super::{Redis, tls_options, until_said};
use crate::process::free_port;

/// Slots of each master.
const SLOTS: [(u16, u16); 3] = [(0, 5460), (5461, 10922), (10923, 16383)];

/// A cluster of three masters on free ports of loopback. Dropping it kills them.
#[derive(Debug)]
pub struct Cluster {
    /// Masters of the cluster.
    pub nodes: Vec<Redis>,
    /// Their ports with TLS.
    pub tls_ports: Vec<u16>,
}

impl Cluster {
    /// Starts the cluster, and returns when each master knows which master has which keys.
    ///
    /// # Errors
    /// Fails when redis-server is not installed, or the masters do not find each other.
    pub async fn start() -> anyhow::Result<Self> {
        Self::start_nodes(None).await
    }

    /// Starts a cluster whose masters show these certificates; see [`tls_options`].
    ///
    /// # Errors
    /// Fails when redis-server is not installed, or the masters do not find each other.
    pub async fn start_with_tls(certificates: &Path) -> anyhow::Result<Self> {
        Self::start_nodes(Some(certificates)).await
    }

    async fn start_nodes(certificates: Option<&Path>) -> anyhow::Result<Self> {
        let (mut nodes, mut tls_ports) = (Vec::<Redis>::new(), Vec::new());
        for _ in SLOTS {
            let bus = free_port()?.to_string();
            let mut options =
                ["--cluster-enabled", "yes", "--cluster-port", &bus].map(Into::into).to_vec();
            if let Some(certificates) = certificates {
                let port = free_port()?;
                options.extend(tls_options(certificates, port));
                options.extend(["--tls-cluster", "yes"].map(Into::into));
                tls_ports.push(port);
            }
            let options: Vec<_> = options.iter().map(String::as_str).collect();
            let node = Redis::start_with(&options).await?;
            if let Some(first) = nodes.first() {
                let port = tls_ports.last().copied().unwrap_or_else(|| node.port());
                first.command(&format!("CLUSTER MEET 127.0.0.1 {port} {bus}")).await?;
            }
            nodes.push(node);
        }
        for (node, (from, to)) in nodes.iter().zip(SLOTS) {
            node.command(&format!("CLUSTER ADDSLOTSRANGE {from} {to}")).await?;
        }
        for node in &nodes {
            until_said(node.port(), "CLUSTER INFO", "cluster_state:ok").await?;
            until_said(node.port(), "CLUSTER INFO", "cluster_size:3").await?;
        }
        Ok(Self { nodes, tls_ports })
    }
}
