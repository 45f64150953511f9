//! Body of a request.

use std::io::Read as _;

use axum::body::{Body, Bytes, to_bytes};
use axum::http::{HeaderMap, StatusCode, header};
use flate2::read::MultiGzDecoder;

use super::form::Form;
use super::refusal::{Refusal, TOO_LARGE};

/// Returns the maximum size that a body can have, as far as the headers tell.
pub(super) fn max_size(headers: &HeaderMap, form: Form, max_bytes: usize) -> usize {
    let told = headers.get(header::CONTENT_LENGTH).and_then(|length| length.to_str().ok());
    let told = told.filter(|_| !form.is_gzip).and_then(|length| length.parse().ok());
    told.map_or(max_bytes, |length: usize| length.min(max_bytes))
}

/// Reads a body, and decompresses it within its limit.
pub(super) async fn read(body: Body, form: Form, max_bytes: usize) -> Result<Bytes, Refusal> {
    // The listener answers for a body that is too large or too slow. Otherwise the client is gone.
    let read = to_bytes(body, max_bytes).await;
    let body = read.map_err(|_| Refusal::invalid("body", "the body did not arrive as a whole"))?;
    if form.is_gzip { decompress(&body, max_bytes) } else { Ok(body) }
}

fn decompress(body: &[u8], max_bytes: usize) -> Result<Bytes, Refusal> {
    let mut plain = Vec::new();
    let mut decoder = MultiGzDecoder::new(body).take(max_bytes as u64 + 1);
    if let Err(error) = decoder.read_to_end(&mut plain) {
        return Err(Refusal::invalid("body", format!("the body is not gzip: {error}")));
    }
    if plain.len() > max_bytes {
        let detail = format!("the body may have at most {max_bytes} bytes after decompression");
        return Err(Refusal::new(StatusCode::PAYLOAD_TOO_LARGE, TOO_LARGE, detail));
    }
    Ok(plain.into())
}

#[cfg(test)]
mod tests {
    use std::io::Write as _;

    use flate2::Compression;
    use flate2::write::GzEncoder;

    use super::*;

    fn gzip(plain: &[u8]) -> Vec<u8> {
        let mut encoder = GzEncoder::new(Vec::new(), Compression::best());
        encoder.write_all(plain).unwrap();
        encoder.finish().unwrap()
    }

    #[test]
    fn a_bomb_is_refused_at_the_limit() {
        let bomb = gzip(&vec![b' '; 10_000_000]);
        assert!(bomb.len() < 20_000, "{} bytes", bomb.len());

        let refusal = decompress(&bomb, 1000).unwrap_err();

        assert_eq!(refusal.status, StatusCode::PAYLOAD_TOO_LARGE);
        // The end is missing, and nobody reads so far.
        let cut = decompress(&bomb[..bomb.len() - 100], 1000).unwrap_err();
        assert_eq!(cut.status, StatusCode::PAYLOAD_TOO_LARGE);
        assert_eq!(decompress(&gzip(&[b' '; 1000]), 1000).unwrap().len(), 1000);
    }

    #[test]
    fn a_body_that_is_no_gzip_or_is_cut_is_refused() {
        let whole = gzip(b"some text that is compressed");

        for wrong in [&b"plain"[..], &whole[..whole.len() - 4], &[]] {
            assert_eq!(decompress(wrong, 1000).unwrap_err().status, StatusCode::BAD_REQUEST);
        }
        let two = [whole.clone(), whole].concat();
        assert_eq!(decompress(&two, 1000).unwrap().len(), 2 * 28, "a file of two members");
    }
}
