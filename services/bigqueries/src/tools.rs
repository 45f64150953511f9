//! Subcommands of the binary, beside those that every service has.
//!
//! A binary with its own row type can offer them too. But `explain` and `view` take the columns of
//! the settings.

use pubsub::tools::dead_letters;
use service::Action;

use crate::config::Settings;

pub mod explain;
pub mod view;

/// All of them, for [`service::run`].
pub const ACTIONS: [Action<Settings>; 3] = [VIEW, EXPLAIN, DEAD_LETTERS];

const VIEW: Action<Settings> = Action {
    command: view::command,
    act: |settings, _| {
        view::print(&settings);
        Box::pin(std::future::ready(Ok(())))
    },
};
const EXPLAIN: Action<Settings> = Action {
    command: explain::command,
    act: |settings, given| Box::pin(explain::act(settings, given)),
};
const DEAD_LETTERS: Action<Settings> = dead_letters::action();
