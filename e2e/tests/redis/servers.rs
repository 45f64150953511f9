//! Tests of the kinds of Redis server, and of changes while they are used.

use std::path::Path;
use std::sync::Arc;

use e2e::certificates;
use e2e::process::free_port;
use e2e::proxy::Proxy;
use e2e::redis::{Cluster, Redis as Server, Sentinel, tls_options};
use enrich::cache::redis::{self, Mode, Redis, RedisSettings};
use service::settings::Tls;

use crate::{holds, until};

fn open(settings: &RedisSettings) -> Redis {
    service::install_crypto();
    Redis::open(settings).unwrap().unwrap()
}

/// Returns keys that belong to all nodes of a cluster.
fn keys() -> Vec<Arc<str>> {
    (0..300).map(|key| format!("device-{key}").into()).collect()
}

/// Returns the settings of a server with TLS whose certificates are in this folder.
fn with_tls(folder: &Path, port: u16) -> RedisSettings {
    let tls = Tls {
        ca_file: Some(folder.join("ca.pem")),
        client_cert_file: Some(folder.join("client.pem")),
        client_key_file: Some(folder.join("client.key")),
    };
    let url = Some(format!("rediss://127.0.0.1:{port}").into());
    RedisSettings { url, tls, ..RedisSettings::default() }
}

async fn start_with_tls(folder: &Path) -> (Server, RedisSettings) {
    certificates::make(folder).unwrap();
    let port = free_port().unwrap();
    let options = tls_options(folder, port);
    let options: Vec<_> = options.iter().map(String::as_str).collect();
    let server = Server::start_with(&options).await.unwrap();
    (server, with_tls(folder, port))
}

#[tokio::test(flavor = "multi_thread")]
async fn with_tls_both_sides_show_certificates() {
    let folder = tempfile::tempdir().unwrap();
    let (_server, right) = start_with_tls(folder.path()).await;
    let stranger = Some(folder.path().join("stranger.pem"));
    let of_stranger = Tls { ca_file: stranger, ..right.tls.clone() };
    let of_nobody = Tls { ca_file: right.tls.ca_file.clone(), ..Tls::default() };

    assert_eq!(holds(&open(&right), &keys()).await, Ok(true));
    for tls in [of_stranger, Tls { ca_file: None, ..right.tls.clone() }, of_nobody] {
        let wrong = RedisSettings { tls: tls.clone(), ..right.clone() };
        assert!(holds(&open(&wrong), &keys()).await.is_err(), "{tls:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_new_password_in_the_file_needs_no_restart() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("password");
    std::fs::write(&file, "old\n").unwrap();
    let server = Server::start().await.unwrap();
    // Exactly the rights that the documentation lists.
    let rights = "~dataflow:enrich:* &dataflow:enrich:* +mget +psetex +del +eval +publish +subscribe \
                  +ping +cluster|info +cluster|slots";
    server.command(&format!("ACL SETUSER enrich on >old {rights}")).await.unwrap();
    let redis = open(&RedisSettings {
        url: Some(server.url().into()),
        username: Some("enrich".into()),
        password_file: Some(file.clone()),
        ..RedisSettings::default()
    });
    assert_eq!(holds(&redis, &keys()).await, Ok(true));
    redis.invalidate("device-1").await.unwrap();
    drop(redis.subscribe().await.unwrap());

    server.command("ACL SETUSER enrich resetpass >new").await.unwrap();
    server.command("CLIENT KILL TYPE normal").await.unwrap();
    let is_refused = |why: String| why.to_lowercase().contains("authentication");
    until(async || holds(&redis, &keys()).await.is_err_and(is_refused)).await;
    std::fs::write(&file, "new\n").unwrap();

    until(async || holds(&redis, &keys()).await == Ok(true)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cluster_holds_the_keys_of_all_its_nodes() {
    let cluster = Cluster::start().await.unwrap();
    let [first, others @ ..] = &cluster.nodes[..] else { panic!("no nodes") };
    let settings = RedisSettings {
        url: Some(first.url().into()),
        mode: Mode::Cluster,
        ..RedisSettings::default()
    };

    assert_eq!(holds(&open(&settings), &keys()).await, Ok(true));

    for node in others {
        let size = node.command("DBSIZE").await.unwrap();
        assert_ne!(size.trim(), ":0", "{node:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cluster_with_tls_asks_for_a_login_at_each_node() {
    let folder = tempfile::tempdir().unwrap();
    certificates::make(folder.path()).unwrap();
    let cluster = Cluster::start_with_tls(folder.path()).await.unwrap();
    for node in &cluster.nodes {
        node.command("CONFIG SET requirepass sesame").await.unwrap();
    }
    let file = folder.path().join("password");
    let settings = RedisSettings {
        mode: Mode::Cluster,
        password_file: Some(file.clone()),
        ..with_tls(folder.path(), cluster.tls_ports[0])
    };

    std::fs::write(&file, "wrong").unwrap();
    assert!(holds(&open(&settings), &keys()).await.is_err());
    std::fs::write(&file, "sesame").unwrap();
    let redis = open(&settings);
    until(async || holds(&redis, &keys()).await == Ok(true)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_of_another_kind_than_the_settings_say_is_an_error_with_what_to_set() {
    let cluster = Cluster::start().await.unwrap();
    let node = Server::start().await.unwrap();
    let as_node =
        RedisSettings { url: Some(cluster.nodes[0].url().into()), ..RedisSettings::default() };
    let as_cluster = RedisSettings {
        url: Some(node.url().into()),
        mode: Mode::Cluster,
        ..RedisSettings::default()
    };

    // The node owns the slot of this key, so it would answer.
    let of_cluster = open(&as_node).get(&["device-0".into()]).await.unwrap_err().to_string();
    let of_node = open(&as_cluster).get(&["device-1".into()]).await.unwrap_err().to_string();

    assert!(of_cluster.contains("set cache.redis.mode: cluster"), "{of_cluster}");
    assert!(of_node.contains("cluster support disabled"), "{of_node}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_sentinel_leads_to_the_master_of_the_moment() {
    let sentinel = Sentinel::start().await.unwrap();
    let service = Sentinel::SERVICE.to_owned();
    let settings = RedisSettings {
        // No server listens at the first address.
        url: Some(format!("redis://127.0.0.1:{}", free_port().unwrap()).into()),
        other_urls: vec![sentinel.url().into()],
        mode: Mode::Sentinel,
        sentinel: redis::Sentinel { service, ..<_>::default() },
        ..RedisSettings::default()
    };
    let redis = open(&settings);
    assert_eq!(holds(&redis, &keys()).await, Ok(true));

    sentinel.fail_over().await.unwrap();
    until(async || holds(&redis, &keys()).await == Ok(true)).await;

    let unknown = redis::Sentinel { service: "nobody".into(), ..<_>::default() };
    let unknown = open(&RedisSettings { sentinel: unknown, ..settings });
    let why = holds(&unknown, &keys()).await.unwrap_err();
    assert!(why.contains("watches no master `nobody`"), "{why}");
}

/// Starts a failover behind one address.
///
/// Returns the client, both servers, and the proxy at the address of the client. The address now
/// leads to the new master. The old connection stays open, and leads to the old server, which is a
/// replica now.
async fn fail_over() -> (Redis, [Server; 2], Proxy) {
    let (old, new) = (Server::start().await.unwrap(), Server::start().await.unwrap());
    let address = Proxy::start(old.port()).unwrap();
    let url = Some(format!("redis://127.0.0.1:{}", address.port()).into());
    let redis = open(&RedisSettings { url, ..RedisSettings::default() });
    assert_eq!(holds(&redis, &keys()).await, Ok(true));

    address.lead_to(new.port());
    old.command(&format!("REPLICAOF 127.0.0.1 {}", new.port())).await.unwrap();
    (redis, [old, new], address)
}

fn is_read_only(why: impl ToString) -> bool {
    let why = why.to_string();
    why.contains("READONLY") || why.contains("read only") || why.contains("ReadOnly")
}

#[tokio::test(flavor = "multi_thread")]
async fn after_a_failover_behind_one_address_the_new_master_is_used() {
    let (redis, _servers, _address) = fail_over().await;

    // The new master first copies its data, and meanwhile keys change between a read and its write.
    until(async || holds(&redis, &keys()).await.is_err_and(is_read_only)).await;

    assert_eq!(holds(&redis, &keys()).await, Ok(true));
}

#[tokio::test(flavor = "multi_thread")]
async fn after_a_failover_the_new_master_forgets_what_is_invalidated() {
    let (redis, _servers, _address) = fail_over().await;

    let refused = redis.invalidate("device-1").await.unwrap_err();

    assert!(is_read_only(&refused), "{refused}");
    redis.invalidate("device-1").await.unwrap();
}
