//! Metrics of all listeners of a process.

use axum::extract::{Request, State};
use axum::http::StatusCode;
use axum::middleware::Next;
use axum::response::Response;
use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::registry::Registry;

use crate::Problem;

/// Classes of status codes.
const CLASSES: [&str; 4] = ["2xx", "3xx", "4xx", "5xx"];

/// Labels of an answer.
#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct AnswerLabels {
    /// Section of the listener's settings.
    pub listener: &'static str,
    /// Class of the status code.
    pub status: &'static str,
}

/// Metrics of all listeners of a process. Clones share their values.
#[derive(Debug, Clone, Default)]
pub struct Metrics {
    answers: Family<AnswerLabels, Counter>,
}

impl Metrics {
    /// Registers all metrics under their names. Each class of these listeners starts with 0.
    pub fn register(&self, registry: &mut Registry, listeners: &[&'static str]) {
        let area = registry.sub_registry_with_prefix("dataflow_web");
        let help = "Requests of users that were answered, by the class of the status code";
        area.register("requests", help, self.answers.clone());
        for listener in listeners {
            drop(self.of(listener));
        }
    }

    /// Returns the counters of a listener.
    pub(crate) fn of(&self, listener: &'static str) -> ListenerCounts {
        CLASSES.map(|status| self.answers.get_or_create_owned(&AnswerLabels { listener, status }))
    }
}

/// Counter of each class, as [`CLASSES`] lists them.
pub(crate) type ListenerCounts = [Counter; CLASSES.len()];

/// Counts answers.
pub(crate) async fn count(
    State(counts): State<ListenerCounts>,
    request: Request,
    next: Next,
) -> Response {
    let response = next.run(request).await;
    // 1xx are no answers, and hyper sends them by itself.
    let class = usize::from(status_of(&response).as_u16() / 100);
    if let Some(count) = class.checked_sub(2).and_then(|class| counts.get(class)) {
        count.inc();
    }
    response
}

/// Returns the status of an answer. A call of gRPC that is refused has the status 200.
fn status_of(response: &Response) -> StatusCode {
    response.extensions().get().map_or(response.status(), Problem::status)
}
