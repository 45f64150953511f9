//! Tests of row types that are derived: the columns and cells of each type, and what goes through
//! the rows of a service.

use bytes::Bytes;
use message::envelope::Input;
use pipeline::{Reason, Recovery};
use rows::cell::Cell;
use rows::column::{Column, Kind, Mode};
use rows::field::{NoNumeric, Numeric};
use rows::{Envelope, Error, FromMessage, Message, Record, Row, Rows as _, Typed, fitting};
use serde_json::{Value, json};
use time::macros::{date, datetime, time};
use time::{Date, OffsetDateTime, PrimitiveDateTime, Time};

pipeline::reasons! {
    /// Reasons of dead letters of this row type.
    REFUSED {
        /// The payload is empty.
        EMPTY = "empty";
    }
}

#[derive(Debug, Row)]
struct Reading {
    truth: bool,
    small: i8,
    short: i16,
    word: i32,
    long: i64,
    port: u16,
    count: u32,
    ratio: f32,
    celsius: f64,
    device: String,
    frame: Bytes,
    #[row(name = "raw")]
    frame_bytes: Vec<u8>,
    at: OffsetDateTime,
    day: Date,
    clock: Time,
    local: PrimitiveDateTime,
    price: Numeric,
    more: Value,
    r#type: Option<String>,
    counts: Vec<i64>,
    frames: Vec<Vec<u8>>,
    place: Option<Place>,
    places: Vec<Place>,
}

#[derive(Debug, Clone, Record)]
struct Place {
    floor: Option<i64>,
    room: Room,
}

#[derive(Debug, Clone, Record)]
struct Room {
    names: Vec<String>,
}

impl FromMessage for Reading {
    const REASONS: &[Reason] = REFUSED;

    fn from_message(message: &Message, envelope: &Envelope) -> Result<Self, Error> {
        if message.data.is_empty() {
            return Err(Recovery::Reject(EMPTY).because("read", "nothing"));
        }
        let room = Room { names: vec!["hall".into()] };
        let place = Place { floor: None, room };
        Ok(Self {
            truth: true,
            small: -1,
            short: -2,
            word: -3,
            long: i64::MIN,
            port: u16::MAX,
            count: u32::MAX,
            ratio: 0.5,
            celsius: 21.5,
            device: envelope.id.clone(),
            frame: Bytes::from_static(b"\xff\x00"),
            frame_bytes: vec![1, 2],
            at: datetime!(2025-06-15 10:00:00.5 UTC),
            day: date!(1970 - 01 - 02),
            clock: time!(00:00:01.5),
            local: datetime!(1970-01-01 00:00:02),
            price: "1.5".parse().map_err(|_: NoNumeric| Recovery::Retry.because("parse", "1.5"))?,
            more: json!({ "a": [null] }),
            r#type: None,
            counts: vec![1, 2],
            frames: vec![vec![3]],
            place: Some(place.clone()),
            places: vec![place],
        })
    }
}

fn place(mode: Mode) -> Column {
    let floor = Column::new("floor", Kind::Int64);
    let names = Column::new("names", Kind::String).with_mode(Mode::Repeated);
    let room = Column::record("room", vec![names]).with_mode(Mode::Required);
    Column::record("place", vec![floor, room]).with_mode(mode)
}

#[test]
fn every_type_has_its_column() {
    use Mode::{Nullable, Repeated, Required};

    let columns = [
        ("truth", Kind::Bool, Required),
        ("small", Kind::Int64, Required),
        ("short", Kind::Int64, Required),
        ("word", Kind::Int64, Required),
        ("long", Kind::Int64, Required),
        ("port", Kind::Int64, Required),
        ("count", Kind::Int64, Required),
        ("ratio", Kind::Float64, Required),
        ("celsius", Kind::Float64, Required),
        ("device", Kind::String, Required),
        ("frame", Kind::Bytes, Required),
        ("raw", Kind::Bytes, Required),
        ("at", Kind::Timestamp, Required),
        ("day", Kind::Date, Required),
        ("clock", Kind::Time, Required),
        ("local", Kind::Datetime, Required),
        ("price", Kind::Numeric, Required),
        ("more", Kind::Json, Required),
        ("type", Kind::String, Nullable),
        ("counts", Kind::Int64, Repeated),
        ("frames", Kind::Bytes, Repeated),
    ];
    let columns = columns.map(|(name, kind, mode)| Column::new(name, kind).with_mode(mode));
    let places = Column { name: "places".into(), ..place(Repeated) };
    let expected = [&columns[..], &[place(Nullable), places]].concat();
    assert_eq!(Reading::columns(), expected);
}

#[test]
fn every_value_is_in_its_column() {
    let message = Message::new("x");
    let envelope = Envelope::of(&message, Input::Raw).unwrap();
    let rows = Typed::<Reading>::default();

    let cells = fitting(&rows, &rows.columns(), &message, &envelope).unwrap();

    let bytes = |bytes: &'static [u8]| Cell::Bytes(Bytes::from_static(bytes));
    let names = Cell::List(vec!["hall".into()]);
    let place = Cell::Record(vec![Cell::Null, Cell::Record(vec![names])]);
    let expected = [
        Cell::Bool(true),
        Cell::Int(-1),
        Cell::Int(-2),
        Cell::Int(-3),
        Cell::Int(i64::MIN),
        Cell::Int(65_535),
        Cell::Int(4_294_967_295),
        Cell::Float(0.5),
        Cell::Float(21.5),
        envelope.id.as_str().into(),
        bytes(b"\xff\x00"),
        bytes(&[1, 2]),
        Cell::Micros(1_749_981_600_500_000),
        Cell::Days(1),
        Cell::TimeOfDay(1_500_000),
        Cell::Micros(2_000_000),
        Cell::Numeric(1_500_000_000),
        Cell::Text(r#"{"a":[null]}"#.into()),
        Cell::Null,
        Cell::List(vec![Cell::Int(1), Cell::Int(2)]),
        Cell::List(vec![bytes(&[3])]),
        place.clone(),
        Cell::List(vec![place]),
    ];
    assert_eq!(cells, expected);
}

#[test]
fn the_reasons_and_refusals_of_reading_are_those_of_the_row() {
    let message = Message::new("");
    let envelope = Envelope::of(&message, Input::Raw).unwrap();

    let refused = <Reading as Row>::read(&message, &envelope).unwrap_err();

    assert_eq!(refused.recovery(), Recovery::Reject(EMPTY));
    assert_eq!(<Reading as Row>::REASONS, REFUSED);
}

#[test]
fn a_numeric_holds_what_its_column_holds() {
    let nines = "9".repeat(29);
    let most = nines.parse::<i128>().unwrap() * 1_000_000_000 + 999_999_999;

    assert_eq!("-0.000000001".parse(), Ok(Numeric::of_billionths(-1).unwrap()));
    assert_eq!(Numeric::from(-7), "-7".parse().unwrap());
    assert_eq!(format!("{nines}.999999999").parse().ok(), Numeric::of_billionths(most));
    assert!(Numeric::of_billionths(most).is_some());
    assert_eq!(Numeric::of_billionths(most + 1), None);
    for wrong in ["", "x", "0.0000000001", "1".repeat(30).as_str()] {
        assert_eq!(wrong.parse::<Numeric>(), Err(NoNumeric), "{wrong}");
    }
}
