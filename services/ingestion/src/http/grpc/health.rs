//! Health of the process, as probes and load balancers of gRPC ask for it.

use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use futures::Stream;
use futures::stream::unfold;
use service::Health;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::{Interval, interval};
use tonic::{Request, Response, Status};
use tonic_health::pb::health_check_response::ServingStatus;
use tonic_health::pb::health_server::{Health as Probe, HealthServer};
use tonic_health::pb::{HealthCheckRequest, HealthCheckResponse};
use web::Draining;

use crate::proto;

/// Interval at which a watched health is read.
const INTERVAL: Duration = Duration::from_secs(1);
/// Maximum size of a question.
const MAX_BYTES: usize = 1024;

/// Maximum number of watchers. They need no credentials.
const MAX_WATCHERS: usize = 256;

/// Readiness of the process, as `/readyz` has it.
struct Readiness {
    health: Health,
    watchers: Arc<Semaphore>,
}

/// Returns the routes of the service.
pub(super) fn routes(health: Health) -> Router {
    let watchers = Arc::new(Semaphore::new(MAX_WATCHERS));
    let service =
        HealthServer::new(Readiness { health, watchers }).max_decoding_message_size(MAX_BYTES);
    Router::new().route_service("/grpc.health.v1.Health/{method}", service)
}

/// Returns whether the question is about this process, or its service.
fn check_name(request: &Request<HealthCheckRequest>) -> Result<(), Status> {
    let name = &request.get_ref().service;
    let is_known = name.is_empty() || name == proto::SERVICE;
    is_known.then_some(()).ok_or_else(|| Status::not_found("there is no such service"))
}

fn told(health: &Health) -> ServingStatus {
    if health.is_ready() { ServingStatus::Serving } else { ServingStatus::NotServing }
}

#[tonic::async_trait]
impl Probe for Readiness {
    type WatchStream =
        Pin<Box<dyn Stream<Item = Result<HealthCheckResponse, Status>> + Send + 'static>>;

    async fn check(
        &self,
        request: Request<HealthCheckRequest>,
    ) -> Result<Response<HealthCheckResponse>, Status> {
        check_name(&request)?;
        Ok(Response::new(HealthCheckResponse { status: told(&self.health).into() }))
    }

    async fn watch(
        &self,
        request: Request<HealthCheckRequest>,
    ) -> Result<Response<Self::WatchStream>, Status> {
        let right = Arc::clone(&self.watchers).try_acquire_owned();
        let watch = Watch {
            _right: right.map_err(|_| Status::resource_exhausted("too many watch already"))?,
            health: self.health.clone(),
            draining: request.extensions().get::<Draining>().cloned(),
            ticks: interval(INTERVAL),
            last: None,
        };
        // A name that is unknown now may be known later, says the protocol. Ours never change.
        check_name(&request)?;
        Ok(Response::new(Box::pin(unfold(watch, Watch::next))))
    }
}

/// Health that is watched.
struct Watch {
    _right: OwnedSemaphorePermit,
    health: Health,
    /// `None` after the last answer.
    draining: Option<Draining>,
    ticks: Interval,
    last: Option<ServingStatus>,
}

impl Watch {
    /// Waits for a change. A drain is the last one.
    async fn next(mut self) -> Option<(Result<HealthCheckResponse, Status>, Self)> {
        loop {
            let draining = self.draining.as_mut()?;
            let status = tokio::select! {
                () = draining.begun() => {
                    self.draining = None;
                    ServingStatus::NotServing
                }
                _ = self.ticks.tick() => told(&self.health),
            };
            if self.last != Some(status) {
                self.last = Some(status);
                return Some((Ok(HealthCheckResponse { status: status.into() }), self));
            }
        }
    }
}
