//! Protocol of a connection, from its first bytes.

use std::io::{Error, ErrorKind, Result};
use std::time::Duration;

use axum::body::Bytes;
use tokio::io::{AsyncRead, AsyncReadExt as _};
use tokio::time::timeout;

use service::impatient::Impatient;

/// First bytes of HTTP/2 [RFC 9113, 3.4]. No method of HTTP/1 is called so.
const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

/// Protocol of a connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Protocol {
    Http1,
    Http2,
}

/// Reads as much of a connection as tells its protocol, and gives the bytes back to it.
pub(super) async fn of<S: AsyncRead + Unpin>(
    stream: &mut Impatient<S>,
    limit: Duration,
) -> Result<Protocol> {
    let (mut begun, mut length) = ([0; PREFACE.len()], 0);
    let reading = async {
        while length < begun.len() && begun[..length] == PREFACE[..length] {
            match stream.read(&mut begun[length..]).await? {
                0 => break,
                count => length += count,
            }
        }
        Result::Ok(())
    };
    let in_time = timeout(limit, reading).await;
    in_time.map_err(|_| Error::new(ErrorKind::TimedOut, "the first bytes did not come"))??;
    stream.give_back(Bytes::copy_from_slice(&begun[..length]));
    Ok(if begun == PREFACE { Protocol::Http2 } else { Protocol::Http1 })
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncWriteExt as _, duplex};

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_protocol_is_known_by_its_first_bytes_however_they_come() {
        let requests: [(&[u8], _); 5] = [
            (b"GET / HTTP/1.1\r\n\r\n", Protocol::Http1),
            (b"PROPFIND / HTTP/1.1\r\n\r\n", Protocol::Http1),
            (b"P", Protocol::Http1),
            (b"", Protocol::Http1),
            (b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\nand more", Protocol::Http2),
        ];
        for (bytes, expected) in requests {
            for piece in [1, 5, 100] {
                let (near, mut far) = duplex(1000);
                let mut near = Impatient::new(near, Duration::from_secs(1));
                let write = async {
                    for piece in bytes.chunks(piece) {
                        far.write_all(piece).await.unwrap();
                        tokio::task::yield_now().await;
                    }
                    drop(far);
                };

                let (protocol, ()) = tokio::join!(of(&mut near, Duration::from_secs(1)), write);

                assert_eq!(protocol.unwrap(), expected);
                let mut all = Vec::new();
                near.read_to_end(&mut all).await.unwrap();
                assert_eq!(all, bytes, "no byte is lost");
            }
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_client_that_says_nothing_is_not_waited_for() {
        let (near, mut far) = duplex(1000);
        far.write_all(b"PRI * HTTP/2.0").await.unwrap();
        let mut near = Impatient::new(near, Duration::from_secs(1));

        let error = of(&mut near, Duration::from_secs(15)).await.unwrap_err();

        assert_eq!(error.kind(), ErrorKind::TimedOut);
    }
}
