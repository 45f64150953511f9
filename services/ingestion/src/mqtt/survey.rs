//! Whether the broker takes us. Changes nothing there.

use std::time::Duration;

use service::Need;
use service::survey::State;
use tokio::time::timeout;

use super::connection;
use crate::config::Mqtt;

/// How long beyond the connection's own time-out.
const MARGIN: Duration = Duration::from_secs(5);

/// Connects and leaves again, under a client id of its own: under the service's it would take its
/// session away.
pub(crate) async fn need(settings: &Mqtt) -> Need {
    let guest = Mqtt { name: format!("{}-check", settings.name), ..settings.clone() };
    let visit = connection::end_session(&guest, 0);
    let state = match timeout(settings.connect_timeout + MARGIN, visit).await {
        Ok(Ok(())) => State::Ready,
        Ok(Err(why)) => State::Unreachable(why),
        Err(_) => State::Unreachable("the broker does not answer".into()),
    };
    Need { kind: "mqtt broker", name: settings.url.clone(), role: None, state }
}
