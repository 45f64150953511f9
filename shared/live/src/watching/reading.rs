//! Stream of hops of one replica.

use std::net::SocketAddr;
use std::time::Duration;

use serde_json::{Map, Value};
use tokio::time::timeout;

use crate::replicas::Replicas;
use crate::stage::describe;

/// Time without any byte after which a replica counts as gone. It sends comments more often.
const SILENCE: Duration = Duration::from_secs(30);
/// Maximum size of an event in bytes. A replica sends none that is larger.
const MAX_EVENT_BYTES: usize = 1024 * 1024;

/// Reader of a stream of hops.
pub(super) struct Reader {
    response: reqwest::Response,
    /// Bytes of the event that is not complete.
    buffer: Vec<u8>,
    /// Bytes of the buffer that have no end of an event.
    searched: usize,
}

/// Event of a replica.
pub(super) enum Read {
    Hop(Map<String, Value>),
    /// Hops that were dropped there.
    Lost(u64),
}

impl Reader {
    /// Opens the stream. The hooks are on when it returns.
    pub(super) async fn open(
        replicas: &Replicas,
        replica: SocketAddr,
        query: &[(String, String)],
    ) -> Result<Self, String> {
        let request = replicas.get(replica, "/live/events").query(query);
        let response = request.send().await.map_err(|error| describe(&error))?;
        if !response.status().is_success() {
            return Err(format!("/live/events answers {}", response.status()));
        }
        Ok(Self { response, buffer: Vec::new(), searched: 0 })
    }

    /// Waits for the next event. Returns `None` when the stream has ended.
    pub(super) async fn next(&mut self) -> Option<Read> {
        loop {
            let begin = self.searched.saturating_sub(1);
            if let Some(end) = find_end(&self.buffer[begin..]) {
                let event: Vec<u8> = self.buffer.drain(..begin + end).collect();
                self.searched = 0;
                if let Some(read) = read(&event) {
                    return Some(read);
                }
                continue;
            }
            self.searched = self.buffer.len();
            if self.buffer.len() > MAX_EVENT_BYTES {
                return None;
            }
            let chunk = timeout(SILENCE, self.response.chunk()).await.ok()?;
            self.buffer.extend_from_slice(&chunk.ok()??);
        }
    }
}

/// Returns the length of the first event with the empty line behind it.
fn find_end(buffer: &[u8]) -> Option<usize> {
    buffer.windows(2).position(|pair| pair == b"\n\n").map(|at| at + 2)
}

/// Reads an event. Comments are none.
fn read(event: &[u8]) -> Option<Read> {
    let text = std::str::from_utf8(event).ok()?;
    let field = |name: &str| {
        let value = text.lines().find_map(|line| line.strip_prefix(name))?;
        Some(value.strip_prefix(' ').unwrap_or(value))
    };
    let data: Value = serde_json::from_str(field("data:")?).ok()?;
    match (field("event:")?, data) {
        ("hop", Value::Object(hop)) => Some(Read::Hop(hop)),
        ("lost", data) => Some(Read::Lost(data["dropped"].as_u64()?)),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn events_end_with_an_empty_line_and_comments_are_none() {
        let text = b": watching\n\nevent: hop\ndata: {\"stage\":\"a\"}\n\nevent: lost\nda";

        assert_eq!(find_end(text), Some(12));
        assert!(read(&text[..12]).is_none());
        let end = 12 + find_end(&text[12..]).unwrap();
        assert!(matches!(read(&text[12..end]), Some(Read::Hop(hop)) if hop["stage"] == "a"));
        assert_eq!(find_end(&text[end..]), None);
        let lost = read(b"event: lost\ndata: {\"dropped\":7}\n\n");
        assert!(matches!(lost, Some(Read::Lost(7))));
    }
}
