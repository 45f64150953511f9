//! Subcommands of the binary, beside those that every service has.
//!
//! A binary with its own key, source of documents or applier can offer them too. But `explain`
//! applies only what the settings say.

use pubsub::tools::dead_letters;
use service::Action;

use crate::config::Settings;

mod explain;

/// All of them, for [`service::run`].
pub const ACTIONS: [Action<Settings>; 2] =
    [service::tools::explain::action(), dead_letters::action()];
