//! Check that the broker accepts a connection. It changes nothing at the broker.

use service::Need;
use service::survey::State;

use super::{connection, dial::Network};
use crate::config::Mqtt;

/// Connects and disconnects under a separate client id. The service's own id would take over its
/// session.
pub(crate) async fn need(settings: &Mqtt) -> Need {
    let guest = Mqtt { name: format!("{}-check", settings.name), ..settings.clone() };
    let state = match connection::end_session(&Network, &guest, 0).await {
        Ok(()) => State::Ready,
        Err(why) => State::Unreachable(why),
    };
    Need { kind: "mqtt broker", name: settings.url.clone(), role: None, state }
}
