//! Checks that each message is one row of PostgreSQL, or a dead letter: never none, never two.
//!
//! The archive tells which messages the enriched topic had. A message keeps its id however often it is
//! delivered, and an id is the key of a row.

use std::collections::{HashMap, HashSet};

use super::hostile_clients::number_of;
use super::keyed::Keyed;
use crate::reconcile::canonical;

/// Most failures of one kind that are told in full.
const MAX_TOLD: usize = 5;

/// Differences between the archive and the table.
#[derive(Debug, Default)]
pub(super) struct Differences {
    /// Number of ids that only one of them has. Messages on their way are among these.
    pub(super) unsettled: usize,
    /// Failures in words.
    pub(super) failures: Vec<String>,
}

impl Differences {
    fn add(&mut self, kind: &str, ids: &[&str]) {
        let rest = ids.len().saturating_sub(MAX_TOLD);
        self.failures.extend(ids.iter().take(MAX_TOLD).map(|id| format!("postgres: {kind}: {id}")));
        if rest > 0 {
            self.failures.push(format!("postgres: {kind}: {rest} more"));
        }
    }
}

/// Compares the archive with the table by id. `letters` has the content of each dead letter of the
/// service, and `unarchived` that of icestore's.
///
/// Several messages of hostile clients have the same id on purpose. The table keeps one of them.
pub(super) fn compare(
    archive: &Keyed,
    table: &Keyed,
    letters: &HashSet<Vec<u8>>,
    unarchived: &HashSet<Vec<u8>>,
) -> Differences {
    let [letters, unarchived] =
        [letters, unarchived].map(|keys| keys.iter().map(|key| mark(key)).collect::<HashSet<_>>());
    let (archived, stored) = (contents(archive), contents(table));
    let mut differences = Differences::default();
    let (mut absent, mut changed, mut both) = (Vec::new(), Vec::new(), Vec::new());
    for (id, contents) in &archived {
        let row = stored.get(id).and_then(|rows| rows.first());
        for content in contents {
            let is_letter = letters.contains(content);
            match row {
                None if !is_letter => absent.push(*id),
                Some(row) if row == content && is_letter => both.push(*id),
                Some(row) if !contents.contains(row) => changed.push(*id),
                Some(_) | None => {}
            }
        }
    }
    let is_strange = |(id, rows): &(&&str, &Vec<Vec<u8>>)| {
        !archived.contains_key(**id) && !rows.iter().all(|row| unarchived.contains(row))
    };
    let strange: Vec<_> = stored.iter().filter(is_strange).map(|(id, _)| *id).collect();
    let twice: Vec<_> =
        stored.iter().filter(|(_, rows)| rows.len() > 1).map(|(id, _)| *id).collect();
    differences.unsettled = absent.len() + strange.len();
    differences.add("archived, and neither a row nor a dead letter", &absent);
    differences.add("a row that the archive lacks", &strange);
    differences.add("more than one row", &twice);
    differences.add("a row with another content", &changed);
    differences.add("a row and a dead letter", &both);
    differences
}

/// Returns each id with the contents that it has.
fn contents(keyed: &Keyed) -> HashMap<&str, Vec<Vec<u8>>> {
    let mut contents: HashMap<_, Vec<_>> = HashMap::new();
    for (id, message) in keyed.ids.iter().zip(&keyed.messages) {
        contents.entry(id.as_str()).or_default().push(mark(&message.payload.key()));
    }
    contents
}

/// Returns what tells a content apart: the number of a hostile client, because a row cannot keep each
/// number as it was written. Other payloads stay as they are.
fn mark(key: &[u8]) -> Vec<u8> {
    match number_of(key) {
        Some(number) => format!("hostile {number}").into_bytes(),
        None => canonical(key),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::reconcile::{Arrived, Payload};

    fn keyed(messages: &[(&str, &str)]) -> Keyed {
        let mut keyed = Keyed::default();
        for (id, text) in messages {
            let payload = Payload::Bytes(text.as_bytes().into());
            keyed.push((*id).into(), Arrived { payload, device: None, location: None });
        }
        keyed
    }

    fn told(archive: &[(&str, &str)], table: &[(&str, &str)], letters: &[&str]) -> Vec<String> {
        let letters = letters.iter().map(|text| text.as_bytes().to_vec()).collect();
        compare(&keyed(archive), &keyed(table), &letters, &HashSet::new()).failures
    }

    #[test]
    fn each_message_is_one_row_or_a_dead_letter() {
        let archive = [("a", r#"{"n":1,"m":2}"#), ("a", r#"{"n":1,"m":2}"#), ("b", "x")];

        assert!(told(&archive, &[("a", r#"{"m":2,"n":1}"#)], &["x"]).is_empty());
        let edge = [("edge", r#"{"hostile":1}"#), ("edge", r#"{"hostile":2,"x":1e3}"#)];
        assert!(told(&edge, &[("edge", r#"{"hostile":2,"x":1000}"#)], &[]).is_empty());
    }

    #[test]
    fn every_difference_is_told() {
        for (archive, table, letters, what) in [
            (vec![("a", "1")], vec![], vec![], "neither a row nor a dead letter: a"),
            (vec![], vec![("a", "1")], vec![], "a row that the archive lacks: a"),
            (vec![("a", "1")], vec![("a", "1"), ("a", "1")], vec![], "more than one row: a"),
            (vec![("a", "1")], vec![("a", "2")], vec![], "a row with another content: a"),
            (vec![("a", "1")], vec![("a", "1")], vec!["1"], "a row and a dead letter: a"),
        ] {
            let told = told(&archive, &table, &letters);
            assert!(told.len() == 1 && told[0].contains(what), "{told:?}");
        }
    }

    #[test]
    fn a_row_of_a_message_that_icestore_refused_is_no_difference() {
        let letters = HashSet::from([b"x".to_vec()]);

        let differences = compare(&keyed(&[]), &keyed(&[("a", "x")]), &HashSet::new(), &letters);

        assert_eq!((differences.unsettled, differences.failures), (0, Vec::new()));
    }
}
