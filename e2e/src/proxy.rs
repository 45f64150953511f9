//! A TCP proxy between a client and a server, which behaves as badly as networks do.

use std::net::Ipv4Addr;
use std::time::Duration;

use anyhow::Context as _;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::sleep;

/// How a link behaves.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Link {
    /// As it should.
    Up,
    /// Connections end, and new ones end at once.
    Cut,
    /// Half-open: connections stay, and nothing passes through them any more, ever. Those that
    /// are made meanwhile share their fate.
    Silent,
    /// About 40 KB a second in each direction, and 50 ms later.
    Slow,
}

const SLOW_BYTES: usize = 2 * 1024;
const SLOW_WAIT: Duration = Duration::from_millis(50);

/// A proxy on a free port of loopback. Dropping it ends all its connections.
#[derive(Debug)]
pub struct Proxy {
    port: u16,
    state: watch::Sender<State>,
    _listener: JoinSet<()>,
}

/// A connection that has seen a cut or a silence is over, however short it was.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct State {
    link: Link,
    cuts: u64,
    silences: u64,
}

impl Proxy {
    /// Listens for connections to a server on this machine.
    ///
    /// # Errors
    /// When there is no free port.
    pub async fn start(server: u16) -> anyhow::Result<Self> {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await;
        let listener = listener.context("start a proxy")?;
        let port = listener.local_addr().context("read the proxy's port")?.port();
        let state = watch::Sender::new(State { link: Link::Up, cuts: 0, silences: 0 });
        let mut tasks = JoinSet::new();
        tasks.spawn(accept(listener, server, state.subscribe()));
        Ok(Self { port, state, _listener: tasks })
    }

    /// Where it listens, on 127.0.0.1.
    #[must_use]
    pub fn port(&self) -> u16 {
        self.port
    }

    /// Changes how it behaves from now on.
    pub fn set(&self, link: Link) {
        self.state.send_modify(|state| {
            state.link = link;
            state.cuts += u64::from(link == Link::Cut);
            state.silences += u64::from(link == Link::Silent);
        });
    }
}

async fn accept(listener: TcpListener, server: u16, state: watch::Receiver<State>) {
    let mut connections = JoinSet::new();
    loop {
        tokio::select! {
            // An error of one connection is that connection's own.
            Ok((client, _)) = listener.accept() => {
                let now = *state.borrow();
                if now.link != Link::Cut {
                    connections.spawn(connect(client, server, Line { state: state.clone(), begun: now }));
                }
            }
            Some(_) = connections.join_next() => {}
        }
    }
}

async fn connect(client: TcpStream, server: u16, line: Line) {
    let Ok(server) = TcpStream::connect((Ipv4Addr::LOCALHOST, server)).await else { return };
    for stream in [&client, &server] {
        // Only a matter of speed.
        drop(stream.set_nodelay(true));
    }
    let (from_client, to_client) = client.into_split();
    let (from_server, to_server) = server.into_split();
    // The first error ends both directions.
    drop(tokio::try_join!(
        line.clone().carry(from_client, to_server),
        line.carry(from_server, to_client),
    ));
}

/// The link was cut, or one of its ends has gone.
struct Gone;

/// One connection's view of the link.
#[derive(Debug, Clone)]
struct Line {
    state: watch::Receiver<State>,
    begun: State,
}

impl Line {
    /// How the link behaves to this connection.
    fn link(&mut self) -> Link {
        let now = *self.state.borrow_and_update();
        if now.cuts > self.begun.cuts {
            Link::Cut
        } else if now.silences > self.begun.silences {
            Link::Silent
        } else {
            now.link
        }
    }

    /// Carries bytes until the sender is done.
    async fn carry(mut self, mut from: OwnedReadHalf, mut to: OwnedWriteHalf) -> Result<(), Gone> {
        let mut buffer = vec![0; 64 * 1024];
        loop {
            let link = self.link();
            let most = match link {
                Link::Up => buffer.len(),
                Link::Slow => SLOW_BYTES,
                Link::Cut => return Err(Gone),
                // Holds both sockets, and never looks at them again.
                Link::Silent => std::future::pending().await,
            };
            let read = tokio::select! {
                _ = self.state.changed() => continue,
                read = from.read(&mut buffer[..most]) => read,
            };
            let count = read.map_err(|_| Gone)?;
            if count == 0 {
                return to.shutdown().await.map_err(|_| Gone);
            }
            if link == Link::Slow {
                sleep(SLOW_WAIT).await;
            }
            let cuts = self.begun.cuts;
            tokio::select! {
                written = to.write_all(&buffer[..count]) => written.map_err(|_| Gone)?,
                _ = self.state.wait_for(|now| now.cuts > cuts) => return Err(Gone),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use tokio::time::timeout;

    use super::*;

    /// A server that sends back what it gets.
    async fn echo() -> anyhow::Result<(u16, JoinSet<()>)> {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await?;
        let port = listener.local_addr()?.port();
        let mut tasks = JoinSet::new();
        tasks.spawn(async move {
            while let Ok((mut stream, _)) = listener.accept().await {
                tokio::spawn(async move {
                    let (mut from, mut to) = stream.split();
                    drop(tokio::io::copy(&mut from, &mut to).await);
                });
            }
        });
        Ok((port, tasks))
    }

    async fn ask(stream: &mut TcpStream) -> std::io::Result<()> {
        stream.write_all(b"ping").await?;
        stream.read_exact(&mut [0; 4]).await.map(drop)
    }

    #[tokio::test]
    async fn a_cut_ends_connections_and_silence_holds_them() -> anyhow::Result<()> {
        let (server, _tasks) = echo().await?;
        let proxy = Proxy::start(server).await?;
        let connect = async || TcpStream::connect((Ipv4Addr::LOCALHOST, proxy.port())).await;
        let short = Duration::from_millis(200);

        let mut silenced = connect().await?;
        ask(&mut silenced).await?;
        proxy.set(Link::Silent);
        proxy.set(Link::Up);
        assert!(timeout(short, ask(&mut silenced)).await.is_err(), "nothing passes any more");

        let mut slowed = connect().await?;
        proxy.set(Link::Slow);
        ask(&mut slowed).await?;
        proxy.set(Link::Cut);
        let ended = timeout(Duration::from_secs(10), ask(&mut slowed)).await?;
        assert!(ended.is_err(), "a cut ends it");
        proxy.set(Link::Up);
        ask(&mut connect().await?).await?;
        Ok(())
    }
}
