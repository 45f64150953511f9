//! One listener for gRPC and REST.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use anyhow::Context as _;
use axum::Router;
use axum::extract::{DefaultBodyLimit, Request, State};
use axum::http::{HeaderValue, Version, header};
use axum::middleware::{Next, from_fn_with_state, map_response_with_state};
use axum::response::{IntoResponse, Response};
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use hyper_util::server::conn::auto::Builder;
use hyper_util::service::TowerToHyperService;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::task::JoinSet;

use crate::bigquery::BigQuery;
use crate::cloud::Cloud;
use crate::conditions::{Age, Conditions};
use crate::faults::Faults;
use crate::firestore::Firestore;
use crate::profile::Profile;
use crate::pubsub::PubSub;
use crate::resources::Resources;
use crate::status::Status;
use crate::storage::Storage;
use crate::{control, existence, grpc};

/// Settings of an emulator.
#[derive(Debug, Clone)]
pub struct Options {
    /// Address to listen on; loopback by default.
    pub host: String,
    /// Port to listen on; 0 takes a free one.
    pub port: u16,
    /// Folder of objects and tables; by default a temporary one.
    pub data_dir: Option<PathBuf>,
    /// Resources to create at the start, in addition to those in the folder.
    pub resources: Option<Resources>,
    /// Latencies, quotas and other conditions.
    pub profile: Profile,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            host: "127.0.0.1".into(),
            port: 0,
            data_dir: None,
            resources: None,
            profile: Profile::default(),
        }
    }
}

/// A running emulator. Dropping it ends it.
#[must_use = "an emulator that is dropped ends"]
pub struct Emulator {
    address: SocketAddr,
    faults: Faults,
    data_dir: PathBuf,
    stop: watch::Sender<bool>,
    server: JoinSet<()>,
    _temporary: Option<tempfile::TempDir>,
}

impl Emulator {
    /// Opens the port, loads the folder, and starts to answer.
    ///
    /// # Errors
    /// Fails when the port is in use or the folder cannot be read.
    pub async fn start(options: Options) -> anyhow::Result<Self> {
        let (data_dir, temporary) = match &options.data_dir {
            Some(dir) => (dir.clone(), None),
            None => {
                let dir = tempfile::tempdir().context("create a temporary folder")?;
                (dir.path().to_owned(), Some(dir))
            }
        };
        std::fs::create_dir_all(&data_dir)
            .with_context(|| format!("create the folder {}", data_dir.display()))?;
        let faults = Faults::default();
        faults.conditions().set(options.profile.clone());
        let listener = TcpListener::bind((options.host.as_str(), options.port)).await;
        let listener =
            listener.with_context(|| format!("listen on {}:{}", options.host, options.port))?;
        let address = listener.local_addr().context("read the address of the listener")?;
        let storage = Storage::open(&data_dir, address, faults.clone());
        let storage = storage.context("read the data folder")?;
        let bigquery = BigQuery::open(&data_dir, faults.clone(), storage.clone());
        let cloud = Cloud {
            pubsub: PubSub::new(faults.clone()),
            firestore: Firestore::new(faults.clone()),
            bigquery: bigquery.context("read the tables")?,
            storage,
            faults: faults.clone(),
        };
        if let Some(resources) = &options.resources {
            cloud.provide(resources).await?;
        }
        let (stop, mut stopped) = watch::channel(false);
        let mut server = JoinSet::new();
        server.spawn({
            let (pubsub, mut stopped) = (cloud.pubsub.clone(), stopped.clone());
            async move {
                tokio::select! {
                    () = pubsub.push_forever() => {}
                    _ = stopped.wait_for(|stopped| *stopped) => {}
                }
            }
        });
        let router =
            Router::new().fallback(answer).layer(DefaultBodyLimit::disable()).with_state(cloud);
        let conditions = faults.conditions().clone();
        server.spawn(async move {
            tokio::select! {
                () = serve(listener, router, conditions) => {}
                _ = stopped.wait_for(|stopped| *stopped) => {}
            }
        });
        Ok(Self { address, faults, data_dir, stop, server, _temporary: temporary })
    }

    /// Returns the address of the emulator.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Returns the URL for clients.
    #[must_use]
    pub fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    /// Returns the folder of objects and tables, with `storage/<bucket>/<object>` and
    /// `bigquery.sqlite` in it.
    #[must_use]
    pub fn data_dir(&self) -> &Path {
        &self.data_dir
    }

    /// Returns the faults, to inject new ones.
    #[must_use]
    pub fn faults(&self) -> &Faults {
        &self.faults
    }

    /// Returns the current profile.
    #[must_use]
    pub fn profile(&self) -> Profile {
        self.faults.conditions().profile().as_ref().clone()
    }

    /// Replaces the profile. It applies at once, also to open streams and connections.
    pub fn set_profile(&self, profile: Profile) {
        self.faults.conditions().set(profile);
    }

    /// Ends the emulator and cuts open connections.
    pub async fn shutdown(mut self) {
        self.stop.send_replace(true);
        while self.server.join_next().await.is_some() {}
    }
}

/// Answers connections until it is dropped. Pings detect a client that is gone, so that no more
/// messages are sent to it.
async fn serve(listener: TcpListener, router: Router, conditions: Conditions) {
    const PING_INTERVAL: Duration = Duration::from_secs(10);
    const PING_TIMEOUT: Duration = Duration::from_secs(5);
    let mut builder = Builder::new(TokioExecutor::new());
    // This limit would also close idle connections after 30 s.
    builder.http1().header_read_timeout(None);
    let mut http2 = builder.http2();
    http2.timer(TokioTimer::new()).keep_alive_interval(Some(PING_INTERVAL));
    http2.keep_alive_timeout(PING_TIMEOUT);
    let mut connections = JoinSet::new();
    loop {
        tokio::select! {
            accepted = listener.accept() => match accepted {
                Ok((tcp, _)) => {
                    // Small answers must not be delayed until the next one. An error only delays them.
                    let _ = tcp.set_nodelay(true);
                    let (builder, router) = (builder.clone(), router.clone());
                    connections.spawn(serve_one(tcp, builder, router, conditions.clone()));
                }
                // An example is too many open files: some may be closed later.
                Err(_) => tokio::time::sleep(Duration::from_millis(100)).await,
            },
            Some(_) = connections.join_next() => {}
        }
    }
}

/// Answers one connection until the client closes it, or until it is too old for further requests.
async fn serve_one(
    tcp: TcpStream,
    builder: Builder<TokioExecutor>,
    router: Router,
    conditions: Conditions,
) {
    let peer = Arc::new(Peer::default());
    let router = router.layer(map_response_with_state(Arc::clone(&peer), close_old));
    let router = router.layer(from_fn_with_state(Arc::clone(&peer), note_version));
    let service = TowerToHyperService::new(router);
    let mut connection = std::pin::pin!(builder.serve_connection(TokioIo::new(tcp), service));
    tokio::select! {
        // An error of the connection matters only to the client.
        _ = connection.as_mut() => return,
        () = conditions.outlived(Age::with_jitter(), Profile::connection_age) => {}
    }
    peer.is_old.store(true, Ordering::Relaxed);
    // An HTTP/1 client may have just sent a request, so the next answer closes the connection
    // instead.
    if !peer.is_http1.load(Ordering::Relaxed) {
        connection.as_mut().graceful_shutdown();
    }
    // An error matters only to the client.
    let _ = connection.await;
}

/// The state of a connection.
#[derive(Default)]
struct Peer {
    is_http1: AtomicBool,
    is_old: AtomicBool,
}

async fn note_version(State(peer): State<Arc<Peer>>, request: Request, next: Next) -> Response {
    if request.version() < Version::HTTP_2 {
        peer.is_http1.store(true, Ordering::Relaxed);
    }
    next.run(request).await
}

/// Asks an HTTP/1 client for a new connection if this one is old. HTTP/2 has GOAWAY for that.
async fn close_old(State(peer): State<Arc<Peer>>, mut response: Response) -> Response {
    if peer.is_http1.load(Ordering::Relaxed) && peer.is_old.load(Ordering::Relaxed) {
        response.headers_mut().insert(header::CONNECTION, HeaderValue::from_static("close"));
    }
    response
}

/// Routes a request to its API.
async fn answer(State(cloud): State<Cloud>, request: Request) -> Response {
    let path = request.uri().path().to_owned();
    let is_grpc = request
        .headers()
        .get(header::CONTENT_TYPE)
        .is_some_and(|kind| kind.as_bytes().starts_with(b"application/grpc"));
    if let Err(status) = existence::check(&cloud.faults.conditions().profile(), &request) {
        return if is_grpc {
            tonic::Status::from(status).into_http()
        } else {
            status.into_response()
        };
    }
    if is_grpc {
        return answer_grpc(cloud, &path, request).await;
    }
    let outcome = match path.split('/').nth(1).unwrap_or_default() {
        "v1" => Ok(crate::pubsub::rest_answer(&cloud.pubsub, request).await),
        "bigquery" | "projects" => Ok(crate::bigquery::rest_answer(&cloud.bigquery, request).await),
        "upload" | "resumable" if is_job_upload(&path) => {
            Ok(crate::bigquery::upload(&cloud.bigquery, request).await)
        }
        "storage" | "upload" | "resumable" | "download" | "b" | "batch" => {
            crate::storage::rest_answer(&cloud.storage, request).await
        }
        "emulator" if path.starts_with("/emulator/v1/projects/") => {
            crate::firestore::clear(&cloud.firestore, request.method(), &path)
        }
        "emulator" => control::answer(&cloud.faults, request).await,
        "" => {
            Ok("dataflow emulator: Pub/Sub, Firestore, BigQuery and Cloud Storage\n"
                .into_response())
        }
        _ if crate::storage::is_object_path(&cloud.storage, request.uri()) => {
            Ok(crate::storage::xml_answer(&cloud.storage, request).await)
        }
        _ => Err(Status::unimplemented(&path)),
    };
    outcome.unwrap_or_else(IntoResponse::into_response)
}

/// Returns true for the path of a load job whose data comes with the request.
fn is_job_upload(path: &str) -> bool {
    path.trim_start_matches("/resumable").starts_with("/upload/bigquery/")
}

async fn answer_grpc(cloud: Cloud, path: &str, request: Request) -> Response {
    let service = path.trim_start_matches('/').split('/').next().unwrap_or_default();
    match service {
        "google.pubsub.v1.Publisher" | "google.pubsub.v1.Subscriber" => {
            crate::pubsub::grpc_answer(cloud.pubsub, path, request).await
        }
        "google.iam.v1.IAMPolicy" => crate::pubsub::iam_answer(cloud.pubsub, path, request).await,
        "google.firestore.v1.Firestore" => {
            crate::firestore::answer(cloud.firestore, path, request).await
        }
        "google.cloud.bigquery.storage.v1.BigQueryRead"
        | "google.cloud.bigquery.storage.v1.BigQueryWrite" => {
            crate::bigquery::grpc_answer(cloud.bigquery, path, request).await
        }
        _ => grpc::unimplemented(path).unwrap_or_else(|never| match never {}),
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

    use super::*;

    /// Otherwise a client that calls every 30 s would race with the end of its connection.
    #[tokio::test(start_paused = true)]
    async fn an_idle_connection_of_http1_stays_open() {
        let emulator = Emulator::start(Options::default()).await.unwrap();
        let mut http1 = TcpStream::connect(emulator.address()).await.unwrap();

        for _ in 0..2 {
            http1.write_all(b"GET / HTTP/1.1\r\nhost: localhost\r\n\r\n").await.unwrap();
            let mut answer = Vec::new();
            while !answer.ends_with(b"Cloud Storage\n") {
                let length = http1.read_buf(&mut answer).await.unwrap();
                assert_ne!(length, 0, "the connection was closed");
            }
            tokio::time::sleep(Duration::from_secs(600)).await;
        }
    }
}
