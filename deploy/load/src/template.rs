//! Templates of payloads, topics and sources.

mod decimal;
mod parse;

use std::fmt::Write as _;

use rand::rngs::StdRng;
use rand::{Rng as _, SeedableRng as _};
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;
use uuid::Builder;

use decimal::Decimals;
pub(crate) use parse::WrongTemplate;

/// Names of all placeholders.
pub(crate) const NAMES: [&str; 12] = [
    "device", "index", "seq", "number", "walk", "random", "pick", "now", "uuid", "run", "pad",
    "open",
];

/// Text with placeholders, such as `{"device":"{{device}}","t":{{walk 20 0.5}}}`.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Template {
    parts: Vec<Part>,
}

#[derive(Debug, Clone, PartialEq)]
enum Part {
    Text(String),
    Value(Value),
}

/// Value of a placeholder.
#[derive(Debug, Clone, PartialEq)]
enum Value {
    Device,
    Index,
    Seq { start: i64, step: i64 },
    Number,
    Walk(Walk),
    Random { from: i64, to: i64, decimals: Decimals },
    Pick(Vec<String>),
    Now,
    NowMs,
    Uuid,
    Run,
    Pad(usize),
}

/// Random walk. Values are whole numbers of its smallest decimal, so no rounding adds up.
#[derive(Debug, Clone, PartialEq)]
struct Walk {
    /// Place of the walk in [`State`].
    slot: usize,
    start: i64,
    step: i64,
    min: i64,
    max: i64,
    decimals: Decimals,
}

/// Message for which a template is filled in.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Subject<'a> {
    /// Id of the run.
    pub run: &'a str,
    /// Name of the device.
    pub device: &'a str,
    /// Number of the device.
    pub index: u32,
    /// Number of the message of this device.
    pub seq: u64,
    /// Number of the message over all devices.
    pub number: u64,
}

/// Random values of one device: the generator, and the positions of the walks.
#[derive(Debug)]
pub(crate) struct State {
    random: StdRng,
    walks: Vec<i64>,
}

impl Template {
    /// Reads a template.
    ///
    /// # Errors
    /// Returns the first wrong placeholder, with its place.
    pub(crate) fn parse(text: &str) -> Result<Self, WrongTemplate> {
        Ok(Self { parts: parse::parts(text)? })
    }

    /// Returns the state of a device before its first message. The same seed gives the same values.
    pub(crate) fn state(&self, seed: u64, device: u32) -> State {
        // The golden ratio spreads neighbouring devices over all seeds.
        let own = seed ^ u64::from(device + 1).wrapping_mul(0x9E37_79B9_7F4A_7C15);
        let walks = self.parts.iter().filter_map(|part| match part {
            Part::Value(Value::Walk(walk)) => Some(walk.start),
            Part::Value(_) | Part::Text(_) => None,
        });
        State { random: StdRng::seed_from_u64(own), walks: walks.collect() }
    }

    /// Fills in the template for the next message of a device.
    pub(crate) fn fill(&self, subject: &Subject<'_>, state: &mut State) -> String {
        let mut filled = String::new();
        for part in &self.parts {
            match part {
                Part::Text(text) => filled.push_str(text),
                Part::Value(value) => value.write(subject, state, &mut filled),
            }
        }
        filled
    }
}

impl Value {
    fn write(&self, subject: &Subject<'_>, state: &mut State, out: &mut String) {
        let written = match self {
            Self::Device => out.write_str(subject.device),
            Self::Index => write!(out, "{}", subject.index),
            Self::Seq { start, step } => {
                let seq = i64::try_from(subject.seq).unwrap_or(i64::MAX);
                write!(out, "{}", start.wrapping_add(step.wrapping_mul(seq)))
            }
            Self::Number => write!(out, "{}", subject.number),
            Self::Walk(walk) => walk.decimals.write(walk.next(state), out),
            Self::Random { from, to, decimals } => {
                decimals.write(state.random.random_range(*from..=*to), out)
            }
            Self::Pick(words) => out.write_str(&words[state.random.random_range(0..words.len())]),
            Self::Now => {
                // RFC 3339 has no years after 9999.
                out.write_str(&now_in_ms().format(&Rfc3339).unwrap_or_default())
            }
            Self::NowMs => write!(out, "{}", now_in_ms().unix_timestamp_nanos() / 1_000_000),
            Self::Uuid => {
                let uuid = Builder::from_random_bytes(state.random.random()).into_uuid();
                write!(out, "{uuid}")
            }
            Self::Run => out.write_str(subject.run),
            Self::Pad(digits) => pad(*digits, &mut state.random, out),
        };
        written.expect("a String takes all text");
    }
}

impl Walk {
    fn next(&self, state: &mut State) -> i64 {
        let here = &mut state.walks[self.slot];
        let value = *here;
        let step = state.random.random_range(-self.step..=self.step);
        *here = here.saturating_add(step).clamp(self.min, self.max);
        value
    }
}

fn pad(digits: usize, random: &mut StdRng, out: &mut String) -> std::fmt::Result {
    for _ in 0..digits {
        let digit = char::from_digit(random.random_range(0..16), 16).unwrap_or('0');
        out.write_char(digit)?;
    }
    Ok(())
}

fn now_in_ms() -> OffsetDateTime {
    let now = OffsetDateTime::now_utc();
    now.replace_millisecond(now.millisecond()).unwrap_or(now)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn subject(seq: u64) -> Subject<'static> {
        Subject { run: "r", device: "device-00003", index: 3, seq, number: 10 * seq + 3 }
    }

    fn filled(text: &str, count: u64) -> Vec<String> {
        let template = Template::parse(text).unwrap();
        let mut state = template.state(7, 3);
        (0..count).map(|seq| template.fill(&subject(seq), &mut state)).collect()
    }

    #[test]
    fn placeholders_have_the_values_of_their_message() {
        let text = r#"{"d":"{{device}}","i":{{ index }},"s":{{seq}},"n":{{number}},"r":"{{run}}"}"#;

        assert_eq!(filled(text, 2)[1], r#"{"d":"device-00003","i":3,"s":1,"n":13,"r":"r"}"#);
        assert_eq!(filled("{{seq 100 -5}} {{open}}x", 3), ["100 {{x", "95 {{x", "90 {{x"]);
    }

    #[test]
    fn a_walk_begins_at_its_start_and_never_leaps() {
        let walked = filled("{{walk 20 0.5}}", 200);
        let values: Vec<f64> = walked.iter().map(|text| text.parse().unwrap()).collect();

        assert_eq!(walked[0], "20.0");
        assert!(values.windows(2).all(|pair| (pair[0] - pair[1]).abs() < 0.501), "{walked:?}");
        assert!(values.iter().any(|value| (value - 20.0).abs() > 0.6), "{walked:?}");
        let held = filled("{{walk 1 1 0 2}}", 100);
        assert!(held.iter().all(|text| ["0", "1", "2"].contains(&text.as_str())), "{held:?}");
    }

    #[test]
    fn the_same_seed_gives_the_same_values_and_devices_differ() {
        let template =
            Template::parse("{{walk 0 9}} {{random 0 9999}} {{uuid}} {{pad 9}}").unwrap();
        let of = |seed, device| {
            let mut state = template.state(seed, device);
            [0, 1].map(|seq| template.fill(&subject(seq), &mut state))
        };

        assert_eq!(of(1, 0), of(1, 0));
        assert_ne!(of(1, 0), of(1, 1));
        assert_ne!(of(1, 0), of(2, 0));
    }

    #[test]
    fn random_values_stay_within_their_bounds() {
        let dice = filled("{{random 1 6}}", 300);
        let decimals = filled("{{random -0.5 0.5}}", 300);
        let words = filled("{{pick red green}}", 100);

        assert!(dice.iter().all(|text| ("1"..="6").contains(&text.as_str())), "{dice:?}");
        assert!(dice.contains(&"1".to_owned()) && dice.contains(&"6".to_owned()));
        assert!(decimals.contains(&"-0.3".to_owned()), "{decimals:?}");
        assert!(words.contains(&"red".to_owned()) && words.contains(&"green".to_owned()));
        assert_eq!(filled("{{pad 5}}", 1)[0].len(), 5);
    }

    #[test]
    fn now_is_a_time_in_both_forms() {
        let [now, ms] = ["{{now}}", "{{now ms}}"].map(|text| filled(text, 1).remove(0));

        assert!(OffsetDateTime::parse(&now, &Rfc3339).is_ok(), "{now}");
        assert!(ms.parse::<u64>().unwrap() > 1_700_000_000_000, "{ms}");
    }
}
