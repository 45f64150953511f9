use std::sync::{Arc, Mutex};

use emulator::{Emulator, Options};
use pipeline::{Recovery, Source as _};
use rcgen::{CertificateParams, KeyPair};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _, copy_bidirectional};
use tokio::net::TcpListener;
use tokio::task::JoinSet;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::rustls::ServerConfig;
use tokio_rustls::rustls::pki_types::PrivateKeyDer;
use tonic::transport::{Certificate, ClientTlsConfig};

use super::*;
use crate::Clients;
use crate::{
    Connection, Endpoint, Outgoing, Publishers, Source, SourceMetrics, Subscription, TopicName,
};

/// Host that does not exist, so that only the proxy can lead to it.
const HOST: &str = "pubsub.example";
/// Longest wait for an expected event.
const PATIENCE: Duration = Duration::from_secs(30);

/// A proxy whose tunnels all end at an embedded cloud with TLS.
struct ProxyEnv {
    emulator: Emulator,
    proxy: String,
    certificate: Certificate,
    /// CONNECT requests so far.
    requests: Arc<Mutex<Vec<String>>>,
    _tasks: JoinSet<()>,
}

/// The far end of the tunnels.
#[derive(Clone)]
struct FarEnd {
    tls: TlsAcceptor,
    cloud: u16,
    requests: Arc<Mutex<Vec<String>>>,
}

impl ProxyEnv {
    async fn new() -> Self {
        service::install_crypto();
        let emulator = Emulator::start(Options::default()).await.unwrap();
        let key = KeyPair::generate().unwrap();
        let signed = CertificateParams::new([HOST.to_owned()]).unwrap().self_signed(&key).unwrap();
        let key = PrivateKeyDer::Pkcs8(key.serialize_der().into());
        let tls = ServerConfig::builder().with_no_client_auth();
        let mut tls = tls.with_single_cert(vec![signed.der().clone()], key).unwrap();
        tls.alpn_protocols = vec![b"h2".to_vec()];
        let (tls, requests) = (TlsAcceptor::from(Arc::new(tls)), Arc::default());
        let cloud = emulator.address().port();
        let far_end = FarEnd { tls, cloud, requests: Arc::clone(&requests) };
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let proxy = listener.local_addr().unwrap().to_string();
        let mut tasks = JoinSet::new();
        tasks.spawn(async move {
            let mut tunnels = JoinSet::new();
            while let Ok((client, _)) = listener.accept().await {
                tunnels.spawn(far_end.clone().tunnel(client));
            }
        });
        let certificate = Certificate::from_pem(signed.pem());
        let env = Self { emulator, proxy, certificate, requests, _tasks: tasks };
        env.put("topics/topic", "{}").await;
        env.put("subscriptions/subscription", r#"{ "topic": "projects/p/topics/topic" }"#).await;
        env
    }

    async fn put(&self, resource: &str, body: &'static str) {
        let url = format!("{}/v1/projects/p/{resource}", self.emulator.url());
        let request = reqwest::Client::new().put(url).body(body);
        let request = request.header("content-type", "application/json");
        request.send().await.unwrap().error_for_status().unwrap();
    }

    /// Returns the proxies of an environment that names this one.
    fn proxies(&self, password: &str, no_proxy: &str) -> Matcher {
        let url = format!("http://user:{password}@{}", self.proxy);
        Matcher::builder().https(url).no(no_proxy).build()
    }

    fn connection(&self, proxies: Matcher, url: String) -> Connection {
        let tls = ClientTlsConfig::new().ca_certificate(self.certificate.clone());
        let endpoint = Endpoint { endpoint: Some(url.into()), channels: 3, ..Endpoint::default() };
        Connection { endpoint, proxies: Arc::new(proxies), tls, clients: Clients::default() }
    }

    fn requests(&self) -> Vec<String> {
        self.requests.lock().unwrap().clone()
    }
}

impl FarEnd {
    /// Opens one tunnel, if the password is right.
    async fn tunnel(self, mut client: TcpStream) {
        let mut request = Vec::new();
        while !request.ends_with(b"\r\n\r\n") {
            let Ok(byte) = client.read_u8().await else { return };
            request.push(byte);
        }
        let request = String::from_utf8(request).unwrap();
        // `user:p@ss` in base64.
        let is_right = request.contains("Proxy-Authorization: Basic dXNlcjpwQHNz\r\n");
        self.requests.lock().unwrap().push(request);
        if !is_right {
            let refusal = b"HTTP/1.1 407 Proxy Authentication Required\r\n\r\n";
            client.write_all(refusal).await.unwrap();
            return;
        }
        client.write_all(b"HTTP/1.1 200 Connection established\r\n\r\n").await.unwrap();
        let mut client = self.tls.accept(client).await.unwrap();
        let mut cloud = TcpStream::connect(("127.0.0.1", self.cloud)).await.unwrap();
        // The test may end first.
        drop(copy_bidirectional(&mut client, &mut cloud).await);
    }
}

async fn publish(publishers: &Publishers) -> Result<(), pipeline::Error> {
    let topic = TopicName::new("p", "topic");
    let message = Outgoing {
        topic: topic.clone(),
        data: "data".into(),
        attributes: Default::default(),
        ordering_key: String::new(),
    };
    timeout(PATIENCE, publishers.publish(&topic, &[message])).await.unwrap().map(drop)
}

#[tokio::test(flavor = "multi_thread")]
async fn publishing_and_receiving_go_through_a_proxy() {
    let env = ProxyEnv::new().await;
    let proxies = env.proxies("p%40ss", "other.example");
    let connection = env.connection(proxies, format!("https://{HOST}"));
    let subscription =
        Subscription { id: "subscription".into(), streams: 1, ..Subscription::default() };

    let publishers = Publishers::new(&connection).await.unwrap();
    for _ in 0..4 {
        publish(&publishers).await.unwrap();
    }
    assert_eq!(env.requests().len(), 3, "as many connections as there are channels");
    let metrics = SourceMetrics::default();
    let mut source = Source::open(&connection, "p", &subscription, metrics).await.unwrap();
    let received = timeout(PATIENCE, source.receive()).await.unwrap().unwrap().unwrap();

    assert_eq!(received.message.data.as_ref(), b"data");
    received.ack();
    for request in env.requests() {
        let start = format!("CONNECT {HOST}:443 HTTP/1.1\r\nHost: {HOST}:443\r\n");
        assert!(request.starts_with(&start), "{request}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_refused_tunnel_names_the_variable_without_the_password_and_is_tried_again() {
    let env = ProxyEnv::new().await;
    // A password with an unescaped `@`, which is easily taken for the end of it.
    let proxies = env.proxies("hunter@2", "");
    let connection = env.connection(proxies, format!("https://{HOST}"));
    assert!(!format!("{connection:?}").contains("hunter"), "{connection:?}");
    let publishers = Publishers::new(&connection).await.unwrap();

    for _ in 0..4 {
        let error = publish(&publishers).await.unwrap_err();

        assert_eq!(error.recovery(), Recovery::Retry);
        let said = format!("{error:#} {error:?}");
        let proxy = format!("the proxy {} of HTTPS_PROXY or ALL_PROXY", env.proxy);
        assert!(said.contains(&proxy), "{said}");
        assert!(said.contains("pubsub.example:443: tunnel error: proxy authorization"), "{said}");
        assert!(!said.contains("hunter") && !said.contains("2@"), "{said}");
    }
    assert_eq!(env.requests().len(), 4, "each attempt asks the proxy again");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_host_in_no_proxy_is_connected_directly() {
    let env = ProxyEnv::new().await;
    let proxies = env.proxies("p%40ss", "127.0.0.1");
    let cloud = format!("https://{}", env.emulator.address());
    let publishers = Publishers::new(&env.connection(proxies, cloud)).await.unwrap();

    // The embedded cloud itself has no TLS.
    let error = publish(&publishers).await.unwrap_err();

    assert!(!format!("{error:#}").contains("PROXY"), "{error:#}");
    assert!(env.requests().is_empty(), "{:?}", env.requests());
}

#[test]
fn a_proxy_is_for_servers_with_tls_that_no_proxy_does_not_name() {
    let found = |proxy: &str, no: &str, server: &'static str| {
        let proxies = Matcher::builder().all(proxy).no(no).build();
        Proxy::find(&proxies, &Uri::from_static(server)).map(|proxy| proxy.address)
    };
    let google = "https://pubsub.googleapis.com";
    let proxy = "http://user:password@proxy.example:3128";

    assert_eq!(found(proxy, "", google).as_deref(), Some("proxy.example:3128"));
    assert_eq!(found("proxy.example", "", google).as_deref(), Some("proxy.example:80"));
    for (proxy, no, server) in [
        ("", "", google),
        (proxy, "", "http://emulator.example:8085"),
        (proxy, "other.example,.googleapis.com", google),
        (proxy, "*", google),
        ("https://proxy.example", "", google),
        ("socks5://proxy.example", "", google),
    ] {
        assert_eq!(found(proxy, no, server), None, "{proxy} {no} {server}");
    }
}
