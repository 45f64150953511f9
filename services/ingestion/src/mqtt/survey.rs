//! Whether the broker takes us. Changes nothing there.

use service::Need;
use service::survey::State;

use super::{connection, dial::Network};
use crate::config::Mqtt;

/// Connects and leaves again, under a client id of its own: under the service's it would take its
/// session away.
pub(crate) async fn need(settings: &Mqtt) -> Need {
    let guest = Mqtt { name: format!("{}-check", settings.name), ..settings.clone() };
    let state = match connection::end_session(&Network, &guest, 0).await {
        Ok(()) => State::Ready,
        Err(why) => State::Unreachable(why),
    };
    Need { kind: "mqtt broker", name: settings.url.clone(), role: None, state }
}
