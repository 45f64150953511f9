//! Parameters of `GET /data`.

use axum::http::StatusCode;
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;
use web::Problem;

use crate::format::Format;
pub use crate::token::Place;

/// Rows of a page, if the caller does not say.
const DEFAULT_LIMIT: i64 = 100;
/// Most rows of a page.
const MAX_LIMIT: i64 = 10_000;
/// Largest offset. The server reads all rows before it, so a token is better.
const MAX_OFFSET: i64 = 1_000_000;

/// Question for a page of rows.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Parameters {
    /// Source of the rows. Left out, rows of all sources.
    pub source_id: Option<String>,
    /// First moment.
    pub start_time: Option<OffsetDateTime>,
    /// Moment after the last one.
    pub end_time: Option<OffsetDateTime>,
    /// Most rows.
    pub limit: i64,
    /// Rows that are left out at the beginning.
    pub offset: i64,
    /// Row after which the page begins.
    pub next: Option<Place>,
    /// Form of the answer, if the caller names one here and not in the header `Accept`.
    pub format: Option<Format>,
}

impl Default for Parameters {
    fn default() -> Self {
        Self {
            source_id: None,
            start_time: None,
            end_time: None,
            limit: DEFAULT_LIMIT,
            offset: 0,
            next: None,
            format: None,
        }
    }
}

impl Parameters {
    /// Reads the parameters of a request. Each may stand once.
    ///
    /// # Errors
    /// 400 with the name of the parameter, and what would be right.
    pub fn read(pairs: &[(String, String)]) -> Result<Self, Problem> {
        let mut read = Self::default();
        let mut seen: Vec<&str> = Vec::new();
        for (name, value) in pairs {
            if seen.contains(&name.as_str()) {
                return Err(wrong(name, "must be there once"));
            }
            seen.push(name);
            read.set(name, value)?;
        }
        if let (Some(start), Some(end)) = (read.start_time, read.end_time)
            && start >= end
        {
            return Err(wrong(
                "end_time",
                "must be later than start_time, which belongs to the rows",
            ));
        }
        read.start_time = read.start_time.map(whole_micros);
        read.end_time = read.end_time.map(whole_micros);
        if read.next.is_some() && read.offset > 0 {
            return Err(wrong("offset", "must not be there together with next"));
        }
        Ok(read)
    }

    fn set(&mut self, name: &str, value: &str) -> Result<(), Problem> {
        match name {
            "source_id" => {
                if value.is_empty() || value.contains('\0') {
                    return Err(wrong(name, "must be the id of a source"));
                }
                self.source_id = Some(value.to_owned());
            }
            "start_time" => self.start_time = Some(moment(name, value)?),
            "end_time" => self.end_time = Some(moment(name, value)?),
            "limit" => self.limit = number(name, value, 1, MAX_LIMIT)?,
            "offset" => self.offset = number(name, value, 0, MAX_OFFSET)?,
            // A loop over pages may begin with an empty token.
            "next" if value.is_empty() => {}
            "next" => {
                let right = "must be the value of `next` in an answer";
                self.next = Some(Place::read(value).ok_or_else(|| wrong(name, right))?);
            }
            "format" => {
                let right = "must be json, ndjson or csv";
                self.format = Some(Format::named(value).ok_or_else(|| wrong(name, right))?);
            }
            _ => {
                let right = "is unknown; there are source_id, start_time, end_time, limit, offset, next and format";
                return Err(wrong(name, right));
            }
        }
        Ok(())
    }
}

fn wrong(name: &str, right: &str) -> Problem {
    Problem::new(StatusCode::BAD_REQUEST, format!("{name} {right}")).in_field(name)
}

fn number(name: &str, value: &str, least: i64, most: i64) -> Result<i64, Problem> {
    let number = value.parse::<i64>().ok().filter(|number| (least..=most).contains(number));
    number.ok_or_else(|| wrong(name, &format!("must be a number from {least} to {most}")))
}

/// Rounds a time up to whole microseconds, which rows have. So a bound between two of them is no row's
/// time, and no store rounds it in its own way.
fn whole_micros(time: OffsetDateTime) -> OffsetDateTime {
    let nanos = time.unix_timestamp_nanos();
    let rounded = nanos.div_euclid(1_000) + i128::from(nanos.rem_euclid(1_000) > 0);
    // No row is later than the last moment, which cannot be rounded.
    OffsetDateTime::from_unix_timestamp_nanos(rounded * 1_000).unwrap_or(time)
}

/// Reads a time of RFC 3339.
fn moment(name: &str, value: &str) -> Result<OffsetDateTime, Problem> {
    let right = "must be a time such as 2025-06-15T10:30:00Z; a + is written as %2B";
    OffsetDateTime::parse(value, &Rfc3339).map_err(|_| wrong(name, right))
}

#[cfg(test)]
mod tests {
    use axum::response::IntoResponse as _;

    use super::*;

    fn read(query: &[(&str, &str)]) -> Result<Parameters, Problem> {
        let pairs: Vec<_> =
            query.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
        Parameters::read(&pairs)
    }

    #[test]
    fn a_request_without_parameters_asks_for_the_first_page() {
        assert_eq!(read(&[]), Ok(Parameters::default()));
        assert_eq!(read(&[("limit", "10000"), ("offset", "5")]).unwrap().limit, 10_000);
    }

    #[test]
    fn an_empty_token_asks_for_the_first_page() {
        assert_eq!(read(&[("next", "")]), Ok(Parameters::default()));
        assert_eq!(read(&[("next", ""), ("offset", "5")]).unwrap().offset, 5);
    }

    #[test]
    fn a_bound_between_two_microseconds_is_rounded_up() {
        let start = |time| read(&[("start_time", time)]).unwrap().start_time.unwrap();

        assert_eq!(start("2025-06-15T00:00:00.0000011Z"), start("2025-06-15T00:00:00.000002Z"));
        assert_eq!(start("1969-12-31T23:59:59.9999989Z"), start("1969-12-31T23:59:59.999999Z"));
        let last = "9999-12-31T23:59:59.9999999Z";
        assert_eq!(start(last).unix_timestamp_nanos() % 1_000, 900, "{last} stays");
    }

    #[test]
    fn every_wrong_parameter_is_named() {
        let time = "2025-06-15T10:30:00Z";
        let next = Place { micros: 0, ingest_id: "1".into() }.token();
        let wrong: [(&[(&str, &str)], &str); 14] = [
            (&[("limit", "0")], "limit"),
            (&[("limit", "10001")], "limit"),
            (&[("limit", "x")], "limit"),
            (&[("limit", "1"), ("limit", "2")], "limit"),
            (&[("offset", "-1")], "offset"),
            (&[("offset", "1000001")], "offset"),
            (&[("start_time", "yesterday")], "start_time"),
            (&[("end_time", "2025-06-15 10:30:00+02:00x")], "end_time"),
            (&[("start_time", time), ("end_time", time)], "end_time"),
            (&[("source_id", "")], "source_id"),
            (&[("source_id", "a\0")], "source_id"),
            (&[("next", "x")], "next"),
            (&[("next", &next), ("offset", "1")], "offset"),
            (&[("sourceId", "a")], "sourceId"),
        ];
        for (query, name) in wrong {
            let problem = read(query).unwrap_err();
            assert!(
                format!("{problem:?}").contains(&format!("field: Some(\"{name}\")")),
                "{query:?}"
            );
            assert_eq!(problem.into_response().status(), StatusCode::BAD_REQUEST);
        }
    }
}
