//! `multipart/related` bodies: metadata, data, and the checksums that Google's client adds as a
//! third part when it knows them only at the end.

use bytes::Bytes;
use serde::Deserialize;

use super::Given;
use crate::status::Status;

#[derive(Default, Deserialize)]
struct Checksums {
    crc32c: Option<String>,
}

/// Reads the parts of an upload.
pub(super) fn parse(content_type: &str, body: &Bytes) -> Result<(Given, Bytes), Status> {
    let boundary = boundary(content_type)
        .ok_or_else(|| Status::invalid("multipart/related needs a boundary"))?;
    let parts = parts(body, &format!("--{boundary}"));
    let (metadata, data, checksums) = match parts.as_slice() {
        [metadata, data] => (metadata, data, None),
        [metadata, data, checksums] => (metadata, data, Some(checksums)),
        other => {
            let text = format!("multipart/related needs 2 or 3 parts, has {}", other.len());
            return Err(Status::invalid(text));
        }
    };
    let mut given: Given = json(&metadata.body)?;
    if let Some(checksums) = checksums {
        let checksums: Checksums = json(&checksums.body)?;
        given.crc32c = checksums.crc32c.or(given.crc32c);
    }
    given.content_type = given.content_type.or_else(|| data.content_type.clone());
    Ok((given, data.body.clone()))
}

struct Part {
    content_type: Option<String>,
    body: Bytes,
}

fn boundary(content_type: &str) -> Option<&str> {
    let parameters = content_type.split(';').skip(1);
    let boundary = parameters.map(str::trim).find_map(|one| one.strip_prefix("boundary="))?;
    Some(boundary.trim_matches('"'))
}

fn parts(body: &Bytes, delimiter: &str) -> Vec<Part> {
    let mut parts = Vec::new();
    let mut at = find(body, delimiter.as_bytes(), 0).map(|at| at + delimiter.len());
    let next = format!("\r\n{delimiter}");
    while let Some(start) = at {
        let Some(end) = find(body, next.as_bytes(), start) else { break };
        parts.extend(part(&body.slice(start..end)));
        at = Some(end + next.len());
    }
    parts
}

fn part(part: &Bytes) -> Option<Part> {
    // The line end of the delimiter stands before the headers; both may be all there is.
    let blank = find(part, b"\r\n\r\n", 0)?;
    let headers = String::from_utf8_lossy(&part[..blank]);
    let content_type = headers.lines().find_map(|line| {
        let (name, value) = line.split_once(':')?;
        name.eq_ignore_ascii_case("content-type").then(|| value.trim().to_owned())
    });
    Some(Part { content_type, body: part.slice(blank + 4..) })
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

fn json<T: serde::de::DeserializeOwned>(body: &[u8]) -> Result<T, Status> {
    serde_json::from_slice(body).map_err(|error| Status::invalid(format!("metadata: {error}")))
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
    fn broken_bodies_are_refused() {
        for body in ["", "--b", "--b\r\n\r\n{}\r\n--b--", "--b\r\n\r\n{\r\n--b\r\n\r\n\r\n--b--"] {
            assert!(parse("multipart/related; boundary=b", &Bytes::from(body)).is_err(), "{body}");
        }
        assert!(parse("multipart/related", &Bytes::new()).is_err());
    }
}
