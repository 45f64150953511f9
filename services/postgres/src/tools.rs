//! Subcommands of the binary, beside those that every service has.
//!
//! A binary with its own row type takes them from [`actions`]. But `explain` and `sql` take the
//! columns of the settings.

use pubsub::tools::dead_letters;
use rows::Row;
use service::Action;

use crate::config::Settings;

mod explain;
pub mod sql;

/// All of them, for [`service::run`].
pub const ACTIONS: [Action<Settings>; 3] = [SQL, EXPLAIN, dead_letters::action()];

/// Returns all of them for a binary whose rows are of this type. Its `dead-letters` knows the
/// reasons of the type.
#[must_use]
pub const fn actions<R: Row>() -> [Action<Settings>; 3] {
    let dead_letters = Action {
        command: || {
            let of_row = R::REASONS.iter().copied();
            dead_letters::command(crate::REASONS.refused().chain(of_row))
        },
        ..dead_letters::action()
    };
    [SQL, EXPLAIN, dead_letters]
}

const SQL: Action<Settings> = Action::of::<sql::Sql>();
const EXPLAIN: Action<Settings> = service::tools::explain::action();
