//! Parses `multipart/related` bodies with metadata and data. Google's client adds checksums as a
//! third part if it knows them only at the end.

use bytes::Bytes;
use serde::Deserialize;

use super::object::Given;
use crate::status::Status;

#[derive(Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
struct Checksums {
    crc32c: Option<String>,
    md5_hash: Option<String>,
}

/// Reads the parts of an upload.
pub(super) fn parse(content_type: &str, body: &Bytes) -> Result<(Given, Bytes), Status> {
    let parts = parts(content_type, body)?;
    let (metadata, data, checksums) = match parts.as_slice() {
        [metadata, data] => (metadata, data, None),
        [metadata, data, checksums] => (metadata, data, Some(checksums)),
        other => {
            let text = format!("multipart/related needs 2 or 3 parts, has {}", other.len());
            return Err(Status::invalid(text));
        }
    };
    let mut given = Given::from_json(&metadata.body)?;
    if let Some(checksums) = checksums {
        let checksums: Checksums = serde_json::from_slice(&checksums.body)
            .map_err(|error| Status::invalid(format!("metadata: {error}")))?;
        given.crc32c = checksums.crc32c.or(given.crc32c);
        given.md5_hash = checksums.md5_hash.or(given.md5_hash);
    }
    given.content_type =
        given.content_type.or_else(|| data.header("content-type").map(str::to_owned));
    Ok((given, data.body.clone()))
}

/// Returns the bodies of the parts of a multipart request.
pub(crate) fn bodies(content_type: &str, body: &Bytes) -> Result<Vec<Bytes>, Status> {
    Ok(parts(content_type, body)?.into_iter().map(|part| part.body).collect())
}

/// A part of a multipart body.
pub(super) struct Part {
    /// Names and values of the headers, as they were sent.
    headers: Vec<(String, String)>,
    pub body: Bytes,
}

impl Part {
    /// Returns the value of the first header of this name, which is in lower case.
    pub(super) fn header(&self, name: &str) -> Option<&str> {
        let mut headers = self.headers.iter();
        headers.find(|(found, _)| found.eq_ignore_ascii_case(name)).map(|(_, value)| value.as_str())
    }
}

/// Splits a multipart body. Its lines end with CRLF, or with LF in Python's clients. The first line
/// shows which.
pub(super) fn parts(content_type: &str, body: &Bytes) -> Result<Vec<Part>, Status> {
    let boundary = boundary(content_type)
        .ok_or_else(|| Status::invalid("a multipart body needs a boundary in its content type"))?;
    let delimiter = format!("--{boundary}");
    let mut parts = Vec::new();
    let Some(first) = find(body, delimiter.as_bytes(), 0) else { return Ok(parts) };
    let first = first + delimiter.len();
    let newline = find(body, b"\n", first).unwrap_or(body.len());
    let line_end = if body[..newline].ends_with(b"\r") { "\r\n" } else { "\n" };
    let next = format!("{line_end}{delimiter}");
    let mut at = first;
    while let Some(end) = find(body, next.as_bytes(), at) {
        parts.extend(part(&body.slice(at..end)));
        at = end + next.len();
    }
    Ok(parts)
}

/// Returns the boundary, which may be in single or double quotes.
fn boundary(content_type: &str) -> Option<&str> {
    let parameters = content_type.split(';').skip(1);
    let boundary = parameters.map(str::trim).find_map(|one| one.strip_prefix("boundary="))?;
    let unquoted = ['"', '\'']
        .into_iter()
        .find_map(|quote| boundary.strip_prefix(quote).and_then(|rest| rest.strip_suffix(quote)));
    Some(unquoted.unwrap_or(boundary)).filter(|boundary| !boundary.is_empty())
}

/// Parses the text between two delimiters: the rest of the first line, headers, an empty line, and
/// data.
fn part(part: &Bytes) -> Option<Part> {
    let mut headers = Vec::new();
    let mut at = find(part, b"\n", 0)? + 1;
    loop {
        let end = find(part, b"\n", at)?;
        let line = String::from_utf8_lossy(&part[at..end]);
        at = end + 1;
        if line.trim().is_empty() {
            return Some(Part { headers, body: part.slice(at..) });
        }
        if let Some((name, value)) = line.split_once(':') {
            headers.push((name.trim().to_owned(), value.trim().to_owned()));
        }
    }
}

fn find(haystack: &[u8], needle: &[u8], from: usize) -> Option<usize> {
    let first = *needle.first()?;
    let mut at = from;
    while let Some(found) = haystack.get(at..)?.iter().position(|byte| *byte == first) {
        if haystack[at + found..].starts_with(needle) {
            return Some(at + found);
        }
        at += found + 1;
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn three_parts_give_metadata_data_and_checksum() {
        let body = "--b\r\ncontent-type: application/json\r\n\r\n{\"name\":\"n\"}\r\n--b\r\n\
                    content-type: text/plain\r\n\r\nda\r\n--ta\r\n--b\r\n\r\n{\"crc32c\":\"AAAA\"}\r\n--b--";

        let body = Bytes::from(body);
        let (given, data) = parse("multipart/related; boundary=\"b\"", &body).unwrap();

        assert_eq!(given.name.as_deref(), Some("n"));
        assert_eq!(given.content_type.as_deref(), Some("text/plain"));
        assert_eq!(given.crc32c.as_deref(), Some("AAAA"));
        assert_eq!(data, "da\r\n--ta");
    }

    #[test]
    fn lines_may_end_with_lf_alone_and_boundaries_may_be_quoted_or_bare() {
        let body = "--==0==\nContent-Type: application/json\n\n{\"name\":\"n\"}\n--==0==\n\
                    Content-Type: a/b\n\nda\r\n--=ta\r\n--==0==--";

        for boundary in ["==0==", "\"==0==\"", "'==0=='"] {
            let kind = format!("multipart/related; boundary={boundary}");
            let (given, data) = parse(&kind, &Bytes::from(body)).unwrap();

            assert_eq!(
                (given.name.as_deref(), given.content_type.as_deref()),
                (Some("n"), Some("a/b"))
            );
            assert_eq!(data, "da\r\n--=ta\r", "{boundary}");
        }
    }

    #[test]
    fn broken_bodies_are_refused() {
        for body in ["", "--b", "--b\r\n\r\n{}\r\n--b--", "--b\r\n\r\n{\r\n--b\r\n\r\n\r\n--b--"] {
            assert!(parse("multipart/related; boundary=b", &Bytes::from(body)).is_err(), "{body}");
        }
        assert!(parse("multipart/related", &Bytes::new()).is_err());
    }
}
