//! Subcommands of the binary, beside those that every service has.
//!
//! A binary with its own enricher can offer them too. But `explain` and `dead-letters replay` call
//! [`FromTopic`](crate::enricher::FromTopic) in its place.

use service::Action;

use crate::config::Settings;

pub mod dead_letters;
pub mod explain;
pub mod retire;

/// All of them, for [`service::run`].
pub const ACTIONS: [Action<Settings>; 3] =
    [Action::of::<retire::Retire>(), Action::of::<explain::Explain>(), dead_letters::ACTION];
