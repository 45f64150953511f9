//! Files of the page.

use axum::Router;
use axum::http::{HeaderName, HeaderValue, header};
use axum::response::{IntoResponse as _, Response};
use axum::routing::get;

const INDEX: &str = include_str!("../page/index.html");
/// Names and contents of the other files.
const FILES: &[(&str, &str)] = include!(concat!(env!("OUT_DIR"), "/files.rs"));

/// Rules of the browser: nothing from other places, and no code in the page itself.
const CONTENT_SECURITY_POLICY: &str = "default-src 'none'; script-src 'self'; style-src 'self'; \
     connect-src 'self'; img-src 'self' data:; base-uri 'none'; form-action 'none'; \
     frame-ancestors 'none'";

/// Returns the routes.
pub(crate) fn routes() -> Router {
    let mut router = Router::new().route("/", get(async || file(INDEX, "text/html; charset=utf-8")));
    for (name, content) in FILES {
        let media_type = match name.rsplit_once('.') {
            Some((_, "css")) => "text/css; charset=utf-8",
            _ => "text/javascript; charset=utf-8",
        };
        router = router.route(&format!("/{name}"), get(async || file(content, media_type)));
    }
    router
}

fn file(content: &'static str, media_type: &'static str) -> Response {
    let headers: [(HeaderName, HeaderValue); 5] = [
        (header::CONTENT_TYPE, HeaderValue::from_static(media_type)),
        (header::CONTENT_SECURITY_POLICY, HeaderValue::from_static(CONTENT_SECURITY_POLICY)),
        (header::X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff")),
        (header::REFERRER_POLICY, HeaderValue::from_static("no-referrer")),
        (header::CACHE_CONTROL, HeaderValue::from_static("no-cache")),
    ];
    (headers, content).into_response()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_page_needs_no_code_of_its_own() {
        // The policy forbids it, so it would not run.
        assert!(!INDEX.contains("<style") && !INDEX.contains(" style=") && !INDEX.contains(" onclick="));
        for (at, _) in INDEX.match_indices("<script") {
            assert!(INDEX[at..].split('>').next().is_some_and(|tag| tag.contains("src=")));
        }
        let names: Vec<_> = FILES.iter().map(|(name, _)| *name).collect();
        assert!(names.contains(&"page.js") && names.contains(&"page.css"), "{names:?}");
    }
}
