//! Names by which a listener without authentication may be called.
//!
//! A page in a browser can be served by a name that later leads to 127.0.0.1 (DNS rebinding). The
//! browser then takes this listener for the page's own server, so CORS does not protect it. But the
//! request still has the page's name in `Host`.

use axum::extract::{Request, State};
use axum::http::StatusCode;
use axum::middleware::Next;
use axum::response::{IntoResponse as _, Response};
use service::caller;

use crate::{Problem, Reach};

/// Refuses requests to another name than one of this machine, if the listener serves everybody on
/// this machine.
pub(crate) async fn check(State(reach): State<Reach>, request: Request, next: Next) -> Response {
    if reach == Reach::Anywhere || is_local(&request) {
        return next.run(request).await;
    }
    let why = "this listener has no authentication, so it answers only to names of this machine: \
               open it as localhost, or set up authentication";
    Problem::new(StatusCode::MISDIRECTED_REQUEST, why).into_response()
}

/// Returns whether each name in a request is one of this machine. A request without a name is no
/// browser's.
fn is_local(request: &Request) -> bool {
    request.uri().authority().is_none_or(caller::is_own)
        && caller::has_local_host(request.headers())
}

#[cfg(test)]
mod tests {
    use axum::body::Body;
    use axum::http::header;

    use super::*;

    fn is_taken(uri: &str, host: Option<&str>) -> bool {
        let request = Request::builder().uri(uri);
        let request = match host {
            Some(host) => request.header(header::HOST, host),
            None => request,
        };
        is_local(&request.body(Body::empty()).unwrap())
    }

    #[test]
    fn only_names_of_this_machine_are_taken() {
        let right = ["localhost", "LOCALHOST:8088", "localhost.:1", "127.0.0.1:80", "127.9.9.9"];
        for host in right.into_iter().chain(["[::1]:8088", "[::ffff:127.0.0.1]"]) {
            assert!(is_taken("/", Some(host)), "{host}");
        }
        for host in [
            "example.org",
            "localhost.example.org",
            "10.0.0.1",
            "[::2]",
            "0.0.0.0",
            "",
            "@",
            "a.localhost",
        ] {
            assert!(!is_taken("/", Some(host)), "{host}");
        }
        assert!(is_taken("/", None));
        assert!(is_taken("http://localhost:8088/", None));
        assert!(!is_taken("http://example.org/", Some("localhost")));
        assert!(!is_taken("http://evil@localhost/", None));
    }
}
