//! Tests of connections that break without a notice.

use std::net::SocketAddr;
use std::time::Duration;

use bigqueries::client::Endpoint;
use bigqueries::sink::Sink;
use pipeline::Sink as _;
use rows::cell::Cell;
use rows::column::{Column, Kind};
use serde_json::json;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::time::timeout;

use crate::{Cloud, TIME_LIMIT, encode, settings};

/// Proxy that passes bytes on until its current connections are silenced. Later connections work.
struct Link {
    address: SocketAddr,
    silenced: watch::Sender<u32>,
}

impl Link {
    async fn start(cloud: &Cloud) -> Self {
        let target = cloud.emulator.address();
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let silenced = watch::Sender::new(0);
        let receiver = silenced.subscribe();
        tokio::spawn(async move {
            while let Ok((mut near, _)) = listener.accept().await {
                let mut silenced = receiver.clone();
                silenced.mark_unchanged();
                tokio::spawn(async move {
                    let mut far = TcpStream::connect(target).await.unwrap();
                    tokio::select! {
                        _ended = tokio::io::copy_bidirectional(&mut near, &mut far) => {}
                        Ok(()) = silenced.changed() => std::future::pending().await,
                    }
                });
            }
        });
        Self { address, silenced }
    }

    fn silence(&self) {
        self.silenced.send_modify(|times| *times += 1);
    }
}

#[tokio::test]
async fn a_connection_that_is_gone_without_a_word_is_replaced_once_an_attempt_is_given_up() {
    let cloud = Cloud::start().await;
    let columns = [Column::new("n", Kind::Int64)];
    cloud.table(&columns, settings()).await.unwrap();
    let link = Link::start(&cloud).await;
    let endpoint = Some(format!("http://{}", link.address));
    let endpoint = Endpoint { endpoint: endpoint.map(Into::into), ..Endpoint::default() };
    let table = cloud.open(&columns, settings()).await;
    let sink = Sink::storage_write(&endpoint, table).await.unwrap();
    let one = encode(&sink, vec![vec![Cell::Int(1)]]);
    assert_eq!(sink.write(&one, TIME_LIMIT).await.unwrap(), []);

    link.silence();
    let two = encode(&sink, vec![vec![Cell::Int(2)]]);
    // The pipeline ends each attempt at its time limit.
    timeout(Duration::from_millis(100), sink.write(&two, TIME_LIMIT)).await.unwrap_err();

    let written = timeout(TIME_LIMIT, sink.write(&two, TIME_LIMIT)).await;
    assert_eq!(written.expect("the same connection was used").unwrap(), []);
    assert_eq!(cloud.rows("SELECT n FROM d.t ORDER BY n").await, [json!(["1"]), json!(["2"])]);
}
