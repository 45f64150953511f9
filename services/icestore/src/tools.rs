//! Subcommands of the binary, beside those that every service has.
//!
//! A binary with its own batch key can offer them too. But `explain` shows the batch key of the
//! settings.

use pubsub::tools::dead_letters;
use service::Action;

use crate::config::Settings;

mod explain;
pub mod replay;

/// All of them, for [`service::run`].
pub const ACTIONS: [Action<Settings>; 3] =
    [service::tools::explain::action(), dead_letters::action(), Action::of::<replay::Arguments>()];
