//! A proxy that can be slow, and that can drop its connections without a word.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, PoisonError};
use std::time::Duration;

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{TcpSocket, TcpStream};
use tokio::sync::{Mutex, watch};

/// Buffer between client and proxy. It is small, so that little of a cancelled request is still
/// under way.
const BUFFER_BYTES: u32 = 64 * 1024;

pub(crate) struct TestProxy {
    port: u16,
    generation: watch::Sender<u64>,
    uploaded: Arc<AtomicU64>,
    connections: Arc<AtomicU64>,
    sent: Sent,
}

/// First bytes that were sent to the server, over all connections.
type Sent = Arc<std::sync::Mutex<Vec<u8>>>;

/// One direction of a connection.
struct Way {
    from: OwnedReadHalf,
    to: OwnedWriteHalf,
    generation: watch::Receiver<u64>,
    uplink: Option<Uplink>,
}

/// State towards the server that all connections share.
#[derive(Clone)]
struct Uplink {
    bytes_per_second: Option<u64>,
    uploaded: Arc<AtomicU64>,
    sent: Sent,
    turn: Arc<Mutex<()>>,
}

impl TestProxy {
    /// Starts a proxy to a port of this machine, with this bandwidth towards it.
    pub(crate) fn start(server: u16, bytes_per_second: Option<u64>) -> Self {
        let socket = TcpSocket::new_v4().unwrap();
        socket.set_recv_buffer_size(BUFFER_BYTES).unwrap();
        socket.bind(([127, 0, 0, 1], 0).into()).unwrap();
        let listener = socket.listen(64).unwrap();
        let port = listener.local_addr().unwrap().port();
        let generation = watch::Sender::new(0);
        let uploaded = Arc::new(AtomicU64::new(0));
        let (generations, turn, sent) = (generation.subscribe(), Arc::default(), Sent::default());
        let uplink = Uplink {
            bytes_per_second,
            uploaded: Arc::clone(&uploaded),
            sent: Arc::clone(&sent),
            turn,
        };
        let connections = Arc::new(AtomicU64::new(0));
        let accepted = Arc::clone(&connections);
        tokio::spawn(async move {
            while let Ok((client, _)) = listener.accept().await {
                accepted.fetch_add(1, Ordering::Relaxed);
                let mut generation = generations.clone();
                generation.mark_unchanged();
                let server = TcpStream::connect(("127.0.0.1", server)).await.unwrap();
                let (client_from, client_to) = client.into_split();
                let (server_from, server_to) = server.into_split();
                let up = Way {
                    from: client_from,
                    to: server_to,
                    generation: generation.clone(),
                    uplink: Some(uplink.clone()),
                };
                let down = Way { from: server_from, to: client_to, generation, uplink: None };
                tokio::spawn(up.carry());
                tokio::spawn(down.carry());
            }
        });
        Self { port, generation, uploaded, connections, sent }
    }

    pub(crate) fn url(&self) -> String {
        format!("http://127.0.0.1:{}", self.port)
    }

    /// Number of bytes that reached the server.
    pub(crate) fn uploaded(&self) -> u64 {
        self.uploaded.load(Ordering::Relaxed)
    }

    /// Number of connections that were accepted.
    pub(crate) fn connections(&self) -> u64 {
        self.connections.load(Ordering::Relaxed)
    }

    /// Returns the first bytes that were sent to the server, about 100 KB.
    pub(crate) fn sent(&self) -> Vec<u8> {
        self.sent.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Makes all current connections silent: they stay open, but nothing passes any more.
    pub(crate) fn forget_connections(&self) {
        self.generation.send_modify(|generation| *generation += 1);
    }
}

impl Way {
    async fn carry(mut self) {
        let mut buffer = vec![0; 16 * 1024];
        loop {
            tokio::select! {
                biased;
                _ = self.generation.changed() => std::future::pending().await,
                read = self.from.read(&mut buffer) => {
                    let Ok(count @ 1..) = read else { return };
                    if let Some(uplink) = &self.uplink {
                        uplink.pass(&buffer[..count]).await;
                    }
                    if self.to.write_all(&buffer[..count]).await.is_err() {
                        return;
                    }
                }
            }
        }
    }
}

impl Uplink {
    async fn pass(&self, sent: &[u8]) {
        let bytes = sent.len() as u64;
        if let Some(rate) = self.bytes_per_second {
            let _turn = self.turn.lock().await;
            tokio::time::sleep(Duration::from_micros(bytes * 1_000_000 / rate)).await;
        }
        let mut first = self.sent.lock().unwrap_or_else(PoisonError::into_inner);
        if first.len() < 100_000 {
            first.extend_from_slice(sent);
        }
        self.uploaded.fetch_add(bytes, Ordering::Relaxed);
    }
}
