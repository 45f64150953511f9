//! Tests of the printed text.

use time::macros::datetime;

use super::super::print::Printed;
use super::*;

/// Time at which the first dead letter is published.
const START: OffsetDateTime = datetime!(2025-06-15 10:00 UTC);

/// Returns a dead letter that was published some seconds after [`START`].
fn dead_letter(id: &str, reason: &str, seconds: u32) -> Message {
    let mut dead_letter = Message::new("data")
        .with_attribute("ingest_id", format!("i-{id}"))
        .with_attribute("device_id", "d1")
        .with_attribute("dl_service", "bigqueries")
        .with_attribute("dl_reason", reason)
        .with_attribute("dl_detail", "x is text")
        .with_attribute("dl_first_seen", "2025-06-15T09:00:00Z")
        .with_attribute("dl_message_id", format!("o-{id}"));
    dead_letter.id = format!("m-{id}");
    dead_letter.publish_time = START + std::time::Duration::from_secs(seconds.into());
    dead_letter
}

/// Returns a letter of the service `enrich`.
fn of_enrich(dead_letter: Message) -> Message {
    dead_letter.with_attribute("dl_service", "enrich")
}

fn seen(read: usize) -> Seen {
    Seen { read, shortfall: None, unsettled: None }
}

fn cut_short() -> Seen {
    Seen { shortfall: Some(("a bound".into(), "wait".into())), ..seen(3) }
}

/// Returns a filter that selects the letters of `bigqueries`.
fn filter() -> Filter {
    Filter::default().of_service("bigqueries")
}

/// Returns the printed list of some letters in no order. One of them is not selected.
fn list(seen: &Seen, form: Form) -> Printed {
    let (filter, mut printed) = (filter(), Printed::default());
    let mut list = List::new(&filter);
    list.visit(&dead_letter("d", "no_route", 2));
    list.visit(&dead_letter("a", "row_type_mismatch", 1));
    list.visit(&of_enrich(dead_letter("e", "no_route", 0)));
    list.visit(&dead_letter("c", "no_route", 2));
    list.visit(&dead_letter("b", "row_type_mismatch", 0));
    list.print(seen, form, &mut printed);
    assert_eq!(printed.notes, [""; 0]);
    printed
}

/// Returns the printed numbers of some letters.
fn count(seen: &Seen, form: Form) -> Printed {
    let (filter, mut printed) = (Filter::default(), Printed::default());
    let mut count = Count::new(&filter);
    count.visit(&dead_letter("a", "row_type_mismatch", 0));
    count.visit(&of_enrich(dead_letter("b", "no_route", 0)));
    count.visit(&dead_letter("c", "no_route", 0));
    count.visit(&dead_letter("d", "row_type_mismatch", 0));
    count.print(seen, form, &mut printed);
    printed
}

/// Returns what is printed of the letters with an id, and whether there are any.
fn show(id: &str, dead_letters: &[Message], form: Form) -> (Printed, bool) {
    let (mut wanted, mut printed) = (Wanted::new(id, "bigqueries"), Printed::default());
    dead_letters.iter().cloned().for_each(|dead_letter| wanted.visit(dead_letter));
    let is_found = wanted.print(form, &mut printed);
    (printed, is_found)
}

#[test]
fn a_line_has_a_dash_for_an_unknown_time_or_device() {
    let mut bare = Message::new("data");
    bare.id = "m-1".into();

    assert_eq!(
        Row::of(&dead_letter("1", "no_route", 0)).line(),
        "2025-06-15T09:00:00Z  no_route  i-1  d1  x is text"
    );
    assert_eq!(Row::of(&bare).line(), "-    m-1  -  ");
}

#[test]
fn a_list_is_oldest_first_with_sums_by_reason() {
    let printed = list(&seen(5), Form::Text);

    let expected = [
        "2025-06-15T09:00:00Z  row_type_mismatch  i-b  d1  x is text",
        "2025-06-15T09:00:00Z  row_type_mismatch  i-a  d1  x is text",
        "2025-06-15T09:00:00Z  no_route  i-c  d1  x is text",
        "2025-06-15T09:00:00Z  no_route  i-d  d1  x is text",
        "no_route: 2",
        "row_type_mismatch: 2",
        "4 letters match, of 5 read; no more letters came",
    ];
    assert_eq!(printed.lines, expected);
}

#[test]
fn a_list_in_json_is_one_value() {
    let printed = list(&cut_short(), Form::Json).json();

    let [told] = &printed[..] else { panic!("{printed:?}") };
    let row = json!({
        "id": "i-b",
        "first_seen": "2025-06-15T09:00:00Z",
        "service": "bigqueries",
        "reason": "row_type_mismatch",
        "detail": "x is text",
        "device_id": "d1",
        "bytes": 4,
    });
    assert_eq!(told["letters"][0], row);
    let ids: Vec<_> =
        told["letters"].as_array().unwrap().iter().map(|dead_letter| &dead_letter["id"]).collect();
    assert_eq!(ids, ["i-b", "i-a", "i-c", "i-d"]);
    let mut rest = told.clone();
    rest.as_object_mut().unwrap().remove("letters");
    let expected = json!({
        "complete": false, "read": 3, "why": "a bound", "what_to_do": "wait", "matching": 4,
    });
    assert_eq!(rest, expected);
}

#[test]
fn letters_are_counted_by_service_and_reason() {
    let printed = count(&seen(4), Form::Text);

    let expected = [
        "       1  bigqueries  no_route",
        "       2  bigqueries  row_type_mismatch",
        "       1  enrich      no_route",
        "4 letters match, of 4 read; no more letters came",
    ];
    assert_eq!(printed.lines, expected);
}

#[test]
fn only_letters_that_the_filter_selects_are_counted() {
    let (filter, mut printed) = (filter(), Printed::default());
    let mut count = Count::new(&filter);

    count.visit(&of_enrich(dead_letter("a", "no_route", 0)));
    count.print(&seen(1), Form::Text, &mut printed);

    assert_eq!(printed.lines, ["0 letters match, of 1 read; no more letters came"]);
}

#[test]
fn counts_in_json_are_one_value() {
    let printed = count(&seen(4), Form::Json).json();

    let expected = json!({
        "complete": true,
        "read": 4,
        "matching": 4,
        "counts": [
            { "service": "bigqueries", "reason": "no_route", "letters": 1 },
            { "service": "bigqueries", "reason": "row_type_mismatch", "letters": 2 },
            { "service": "enrich", "reason": "no_route", "letters": 1 },
        ],
    });
    assert_eq!(printed, [expected]);
}

#[test]
fn a_letter_is_found_by_each_of_its_ids() {
    let dead_letters = [dead_letter("1", "no_route", 0), dead_letter("2", "no_route", 0)];

    for id in ["i-2", "m-2", "o-2"] {
        let (printed, is_found) = show(id, &dead_letters, Form::Text);

        assert!(is_found, "{id}");
        let expected = [
            "device_id: d1",
            "dl_detail: x is text",
            "dl_first_seen: 2025-06-15T09:00:00Z",
            "dl_message_id: o-2",
            "dl_reason: no_route",
            "dl_service: bigqueries",
            "ingest_id: i-2",
            "data (4 bytes): \"data\"",
        ];
        assert_eq!(printed.lines, expected, "{id}");
        assert_eq!(printed.notes, [""; 0], "{id}");
    }
    let (printed, is_found) = show("3", &dead_letters, Form::Text);
    assert!(!is_found);
    assert_eq!(printed.lines, [""; 0]);
}

#[test]
fn a_shown_letter_in_json_has_the_original_message() {
    let (printed, is_found) = show("i-1", &[dead_letter("1", "no_route", 0)], Form::Json);

    assert!(is_found);
    let expected = json!({
        "id": "i-1",
        "first_seen": "2025-06-15T09:00:00Z",
        "service": "bigqueries",
        "reason": "no_route",
        "detail": "x is text",
        "device_id": "d1",
        "bytes": 4,
        "message": {
            "data": "ZGF0YQ==",
            "attributes": { "ingest_id": "i-1", "device_id": "d1" },
            "messageId": "o-1",
        },
    });
    assert_eq!(printed.json(), [expected]);
}

#[test]
fn the_oldest_letter_of_this_service_is_shown_and_others_are_noted() {
    let other = |id, seconds| dead_letter(id, "no_route", seconds).with_attribute("ingest_id", "i");
    let dead_letters =
        [of_enrich(other("1", 0)), other("4", 3), of_enrich(other("2", 1)), other("3", 2)];

    let (printed, _) = show("i", &dead_letters, Form::Text);

    assert!(printed.lines.contains(&"dl_message_id: o-3".to_owned()), "{:?}", printed.lines);
    let expected = [
        "another letter has this id: of bigqueries, no_route, message id m-4",
        "another letter has this id: of enrich, no_route, message id m-1",
        "another letter has this id: of enrich, no_route, message id m-2",
    ];
    assert_eq!(printed.notes, expected);
}

#[test]
fn at_most_ten_letters_with_one_id_are_kept() {
    let repeat = |index: u32| dead_letter("1", "no_route", 100 - index);
    let repeats: Vec<_> = (0..12).map(repeat).collect();
    let mut wanted = Wanted::new("i-1", "bigqueries");

    repeats.iter().cloned().for_each(|dead_letter| wanted.visit(dead_letter));

    let oldest: Vec<_> = repeats[2..].iter().rev().cloned().collect();
    assert_eq!(wanted.found, oldest);
}

#[test]
fn the_last_line_tells_whether_all_letters_were_read() {
    assert_eq!(
        seen(0).sum(0),
        "0 letters match, of 0 read: there are none, or somebody else is reading them at this moment"
    );
    assert_eq!(seen(3).sum(1), "1 letter matches, of 3 read; no more letters came");
    assert_eq!(cut_short().sum(2), "2 letters match, of 3 read\nNOT COMPLETE: a bound; wait");
    assert_eq!(seen(3).to_json(), json!({ "complete": true, "read": 3 }));
}
