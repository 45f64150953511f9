//! Forms of an answer.

use axum::http::{HeaderMap, HeaderValue, header};

/// Form of an answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Format {
    /// One object with the list `data`, and `next`.
    Json,
    /// A row in each line.
    Ndjson,
    /// A line with the names of the columns, and a line for each row.
    Csv,
}

impl Format {
    /// Finds the form of this name.
    #[must_use]
    pub fn named(name: &str) -> Option<Self> {
        match name {
            "json" => Some(Self::Json),
            "ndjson" => Some(Self::Ndjson),
            "csv" => Some(Self::Csv),
            _ => None,
        }
    }

    /// Finds the form that a caller accepts. It is JSON unless the header names another one first.
    #[must_use]
    pub fn accepted(headers: &HeaderMap) -> Self {
        let accepted = headers.get(header::ACCEPT).and_then(|accepted| accepted.to_str().ok());
        let types = accepted.unwrap_or_default().split(',');
        let mut types = types.map(|media| media.split(';').next().unwrap_or_default().trim());
        let found = types.find_map(|media| match media {
            "application/json" | "*/*" | "application/*" => Some(Self::Json),
            "application/x-ndjson" => Some(Self::Ndjson),
            "text/csv" => Some(Self::Csv),
            _ => None,
        });
        found.unwrap_or(Self::Json)
    }

    /// Returns the media type.
    pub(crate) fn media_type(self) -> HeaderValue {
        HeaderValue::from_static(match self {
            Self::Json => "application/json",
            Self::Ndjson => "application/x-ndjson",
            Self::Csv => "text/csv; charset=utf-8",
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_form_that_a_caller_accepts_is_used() {
        let accepted = |text: &'static str| {
            let mut headers = HeaderMap::new();
            headers.insert(header::ACCEPT, HeaderValue::from_static(text));
            Format::accepted(&headers)
        };
        assert_eq!(Format::accepted(&HeaderMap::new()), Format::Json);
        assert_eq!(accepted("text/csv;q=0.9, application/json"), Format::Csv);
        assert_eq!(accepted("text/html, application/x-ndjson"), Format::Ndjson);
        assert_eq!(accepted("text/html"), Format::Json);
    }
}
