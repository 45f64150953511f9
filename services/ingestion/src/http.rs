//! Ingest over HTTP: `POST /ingest`, and gRPC on the same port. A request is answered once the
//! outcome of its messages is known.
//!
//! A request passes these steps, each in a file of its own:
//!
//! - `request`: the steps in their order.
//! - `form`: its media type and content encoding.
//! - `admission`: a place among the requests that wait. It is taken before the body is read.
//! - `body`: the body, decompressed within its limit.
//! - `item`, `batch` and `cloud_event`: the items in the body.
//! - `ingest` and `named_id`: a message for each item, with its route and id.
//! - `sending`: the messages are handed to the pipeline, and their outcomes waited for.
//! - `answer`: the outcome of each message as an answer, or a `refusal`.

mod admission;
mod answer;
mod batch;
mod body;
mod cloud_event;
mod form;
mod grpc;
mod ingest;
mod item;
mod members;
mod named_id;
pub(crate) mod refusal;
mod request;
mod sending;

#[cfg(test)]
mod tests;

use std::net::SocketAddr;
use std::sync::Arc;

use axum::Router;
use axum::routing::post;
use pipeline::{Delivery, Error};
use service::Health;
use tokio::sync::mpsc;
use web::{Authenticator, Bound, Server};

use crate::config::{HttpIngest, Identity};
use crate::metrics::Metrics;
use crate::routes::Routes;
use ingest::Ingest;

/// Maximum number of items in one request.
const MAX_ITEMS: usize = 1000;
/// Memory of an item beyond its bytes.
const ITEM_BYTES: usize = 1024;
/// Number of messages that wait for the pipeline. At a shutdown they are refused, so there are few.
const QUEUE: usize = 16;

/// Source of the messages that come over HTTP.
pub struct HttpSource {
    inbox: mpsc::Receiver<Delivery>,
}

impl pipeline::Source for HttpSource {
    async fn receive(&mut self) -> Result<Option<Delivery>, Error> {
        // Cancel safe, because nothing is held while it waits.
        while let Some(delivery) = self.inbox.recv().await {
            if delivery.is_current() {
                return Ok(Some(delivery));
            }
            // Its client waits no longer. Dropping nacks it.
        }
        Ok(None)
    }

    async fn close(self) -> Result<(), Error> {
        // Messages that were never received are nacked here, and their clients learn it.
        Ok(())
    }
}

/// Port that is bound, and not answered yet.
pub struct Port {
    bound: Bound<Authenticator>,
    auth: Authenticator,
    outbox: mpsc::Sender<Delivery>,
}

/// Parts that the messages of a port need, beside its settings.
pub(crate) struct MessageParts {
    pub routes: Arc<Routes>,
    pub identity: Identity,
    pub metrics: Metrics,
}

impl Port {
    /// Binds the port, and returns the source of its messages.
    ///
    /// # Errors
    /// Fails when it cannot listen there.
    pub async fn bind(settings: &HttpIngest) -> anyhow::Result<(Self, HttpSource)> {
        let auth = Authenticator::start(&settings.auth, HttpIngest::AUTH).await?;
        let bound = Bound::bind(&settings.listener(), HttpIngest::SECTION, auth.clone()).await?;
        let (outbox, inbox) = mpsc::channel(QUEUE);
        let bound = bound.with_grpc(grpc::ON_LISTENER);
        Ok((Self { bound, auth, outbox }, HttpSource { inbox }))
    }

    /// Returns the address of the port.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        self.bound.address()
    }

    /// Answers requests. The answers are counted in `counts`.
    ///
    /// # Errors
    /// The descriptors of gRPC cannot be read.
    pub(crate) fn serve(
        self,
        settings: &HttpIngest,
        parts: MessageParts,
        health: Health,
        counts: &web::Metrics,
    ) -> anyhow::Result<Server> {
        let ingest = Arc::new(Ingest::new(settings, parts, self.outbox));
        let calls = grpc::routes(Arc::clone(&ingest), self.auth, health)?;
        let routes = Router::new().route("/ingest", post(request::ingest)).with_state(ingest);
        Ok(self.bound.serve(routes.merge(calls), counts))
    }
}
