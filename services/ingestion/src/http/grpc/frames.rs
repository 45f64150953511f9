//! Messages of a call. Each has a head with its size.

use std::time::Duration;

use axum::body::BodyDataStream;
use axum::extract::Request;
use axum::http::StatusCode;
use bytes::{Buf as _, Bytes, BytesMut};
use futures::StreamExt as _;
use tokio::time::timeout;
use web::auth::Quota;
use web::{GrpcCall, Limits};

use crate::http::refusal::{MEDIA_TYPE, Refusal, TOO_LARGE};

/// Size of a head: a flag for compression, and the size of the message.
pub(super) const HEAD_BYTES: usize = 5;

/// Messages of a call.
pub(super) struct Frames {
    body: BodyDataStream,
    buffer: BytesMut,
    quota: Option<Quota>,
    max_bytes: usize,
    /// Maximum time for the bytes of a message.
    timeout: Duration,
}

impl Frames {
    /// Begins to read a call.
    ///
    /// # Errors
    /// The request is no call.
    pub(super) fn of(request: Request, max_bytes: usize) -> Result<Self, Refusal> {
        let extensions = request.extensions();
        if extensions.get::<GrpcCall>().is_none() {
            let detail = "a call has the content type application/grpc, and comes over HTTP/2";
            let refusal = Refusal::new(StatusCode::UNSUPPORTED_MEDIA_TYPE, MEDIA_TYPE, detail);
            return Err(refusal.in_field("Content-Type"));
        }
        let quota = extensions.get::<Quota>().cloned();
        let timeout = Limits::default().body_timeout;
        let body = request.into_body().into_data_stream();
        Ok(Self { body, buffer: BytesMut::new(), quota, max_bytes, timeout })
    }

    /// Returns the count of the client's requests and bytes.
    pub(super) fn quota(&self) -> Option<&Quota> {
        self.quota.as_ref()
    }

    /// Waits for the first message of a call with one message.
    pub(super) async fn first_size(&mut self) -> Result<usize, Refusal> {
        let size = timeout(self.timeout, self.size()).await.map_err(|_| self.too_slow())??;
        size.ok_or_else(|| Refusal::invalid("body", "the call has no message"))
    }

    /// Waits for the size of the next message. `None` is the end of the call.
    pub(super) async fn size(&mut self) -> Result<Option<usize>, Refusal> {
        loop {
            if let Some(&[flag, ref size @ ..]) = self.buffer.first_chunk::<HEAD_BYTES>() {
                let size = u32::from_be_bytes(*size) as usize;
                return self.check(flag, size).map(Some);
            }
            if !self.fill().await? {
                return if self.buffer.is_empty() { Ok(None) } else { Err(cut()) };
            }
        }
    }

    /// Reads the message of which the size is known.
    pub(super) async fn message(&mut self, size: usize) -> Result<Bytes, Refusal> {
        let limit = self.timeout;
        let reading = async {
            while self.buffer.len() < HEAD_BYTES + size {
                if !self.fill().await? {
                    return Err(cut());
                }
            }
            Ok(())
        };
        match timeout(limit, reading).await {
            Ok(read) => read?,
            Err(_elapsed) => return Err(self.too_slow()),
        }
        self.buffer.advance(HEAD_BYTES);
        Ok(self.buffer.split_to(size).freeze())
    }

    /// Reads some bytes. Returns false at the end of the call.
    async fn fill(&mut self) -> Result<bool, Refusal> {
        let Some(bytes) = self.body.next().await else { return Ok(false) };
        let bytes = bytes.map_err(|_| cut())?;
        if let Some(quota) = &self.quota {
            quota.take(bytes.len());
        }
        self.buffer.extend_from_slice(&bytes);
        Ok(true)
    }

    fn check(&self, flag: u8, size: usize) -> Result<usize, Refusal> {
        if flag != 0 {
            let detail = "messages must not be compressed";
            let refusal = Refusal::new(StatusCode::UNSUPPORTED_MEDIA_TYPE, MEDIA_TYPE, detail);
            return Err(refusal.in_field("grpc-encoding"));
        }
        if size > self.max_bytes {
            let detail = format!("a message may have at most {} bytes", self.max_bytes);
            return Err(Refusal::new(StatusCode::PAYLOAD_TOO_LARGE, TOO_LARGE, detail));
        }
        Ok(size)
    }

    fn too_slow(&self) -> Refusal {
        let detail = format!("a message must arrive within {:?}", self.timeout);
        Refusal::new(StatusCode::REQUEST_TIMEOUT, crate::http::refusal::INVALID, detail)
    }
}

fn cut() -> Refusal {
    Refusal::invalid("body", "the call did not arrive as a whole")
}
