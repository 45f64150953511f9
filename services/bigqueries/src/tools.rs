//! Subcommands of the binary, beside those that every service has.
//!
//! A binary with its own row type takes them from [`actions`]. But `explain` and `view` take the
//! columns of the settings.

use pubsub::tools::dead_letters;
use rows::Row;
use service::Action;

use crate::config::Settings;

mod explain;
pub mod view;

/// All of them, for [`service::run`].
pub const ACTIONS: [Action<Settings>; 3] = [VIEW, EXPLAIN, dead_letters::action()];

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
    [VIEW, EXPLAIN, dead_letters]
}

const VIEW: Action<Settings> = Action::of::<view::View>();
const EXPLAIN: Action<Settings> = service::tools::explain::action();

#[cfg(test)]
mod tests {
    use message::{Envelope, Message};
    use pipeline::{Error, Reason};
    use rows::cell::Cell;
    use rows::column::Column;

    use super::*;

    pipeline::reasons! {
        /// Reasons of the row type.
        OF_ROW {
            /// The payload is no reading.
            NOT_A_READING = "not_a_reading";
        }
    }

    struct NoColumns;

    impl Row for NoColumns {
        const REASONS: &[Reason] = OF_ROW;

        fn columns() -> Vec<Column> {
            Vec::new()
        }

        fn read(_: &Message, _: &Envelope) -> Result<Self, Error> {
            Err(pipeline::Recovery::Reject(NOT_A_READING).because("read", "it is none"))
        }

        fn cells(self) -> Vec<Cell> {
            Vec::new()
        }
    }

    #[test]
    fn dead_letters_are_selected_by_the_reasons_of_the_row_type_too() {
        let takes = |actions: [Action<Settings>; 3], reason| {
            let given = ["dead-letters", "list", "--reason", reason];
            let command = (actions[2].command)();
            command.try_get_matches_from(given).is_ok()
        };

        assert!(takes(actions::<NoColumns>(), "not_a_reading"));
        assert!(takes(actions::<NoColumns>(), "row_type_mismatch"));
        assert!(!takes(ACTIONS, "not_a_reading"), "no row of the settings has it");
    }
}
