//! Rights of a viewer.

use serde::Serialize;
use web::auth::scope;
use web::{Identity, Reach};

use crate::Parts;

/// Rights of a viewer, beside the one to watch.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub(crate) struct Rights {
    /// May see the content of messages, and details that may quote it.
    pub payload: bool,
    /// May send dead letters again.
    pub replay: bool,
    /// May send messages.
    pub send: bool,
}

impl Rights {
    pub(crate) fn of(identity: &Identity, parts: &Parts) -> Self {
        let has = |scope| identity.require(scope).is_ok();
        let is_known = identity.subject.is_some() || parts.reach == Reach::Loopback;
        let may_send = has(scope::INGEST);
        Self {
            payload: has(scope::PAYLOAD),
            replay: parts.settings.dead_letters.is_some() && is_known && may_send,
            send: parts.settings.ingest_url.is_some() && may_send,
        }
    }
}
