//! Listeners that ask for credentials, and that limit their clients.

use web::auth::settings::{Auth, RateLimit};
use web::{Authenticator, Bound, Listener};

use crate::env::{Answer, TestEnv, listener, patient};
use crate::issuer::start;

const KEY: &str = "x-api-key: the-key-of-the-reader-0123456789";
const OTHER: &str = "authorization: Bearer the-key-of-another-one-0123456789";

async fn guard(rate_limit: RateLimit) -> Authenticator {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("keys");
    let entries = "- {name: reader, key: the-key-of-the-reader-0123456789, scopes: [read]}\n\
                   - {name: other, key: the-key-of-another-one-0123456789, scopes: [read]}\n";
    std::fs::write(&file, entries).unwrap();
    start(Auth { jwt: None, api_keys_file: Some(file), rate_limit }).await
}

async fn serve(auth: Authenticator) -> TestEnv {
    TestEnv::with(&listener(), auth, patient()).await
}

fn assert_too_fast(answer: &Answer, detail: &str) {
    assert_eq!(answer.detail(429), detail);
    let seconds: u64 = answer.header("retry-after").unwrap().parse().unwrap();
    assert!((1..=1000).contains(&seconds), "{answer:?}");
}

fn one_a_second(burst: u32) -> RateLimit {
    RateLimit { requests_per_second: Some(1), burst_requests: Some(burst), ..RateLimit::default() }
}

#[tokio::test]
async fn a_guarded_listener_serves_those_with_credentials() {
    let env = serve(guard(RateLimit::default()).await).await;

    assert_eq!(env.ask("GET /who", &[KEY], "").await.body(), "reader");
    assert_eq!(env.ask("GET /who", &[OTHER], "").await.body(), "other");
    assert_eq!(env.ask("GET /write", &[KEY], "").await.detail(403), "needs the scope write");
    let refused = env.ask("GET /who", &["x-api-key: wrong"], "").await;
    assert_eq!(refused.detail(401), "the API key is not known");
    assert_eq!(refused.header("www-authenticate"), Some("Bearer"));
}

#[tokio::test]
async fn without_credentials_in_the_settings_only_loopback_is_bound() {
    let anywhere = Listener { host: "0.0.0.0".into(), ..listener() };
    let open = start(Auth::default()).await;

    let refused = Bound::bind(&anywhere, "test", open.clone()).await.unwrap_err();

    assert!(refused.to_string().starts_with("test.host: must be loopback"), "{refused:#}");
    assert_eq!(serve(open).await.get("/who").await.code(), 200);
    Bound::bind(&anywhere, "test", guard(RateLimit::default()).await).await.unwrap();
}

#[tokio::test]
async fn a_client_that_is_too_fast_is_told_when_to_come_again() {
    let env = serve(guard(one_a_second(2)).await).await;
    let ask = async |header| env.ask("GET /who", &[header], "").await;
    assert_eq!((ask(KEY).await.code(), ask(KEY).await.code()), (200, 200));

    let mut refused = ask(KEY).await;
    // On a slow machine, a request may have become free meanwhile.
    for _ in 0..20 {
        if refused.code() == 200 {
            refused = ask(KEY).await;
        }
    }

    assert_too_fast(&refused, "at most 1 requests per second are allowed");
    assert_eq!(refused.header("retry-after"), Some("1"));
    assert_eq!(ask(OTHER).await.code(), 200, "another client is not concerned");
}

#[tokio::test]
async fn guesses_of_credentials_are_limited_by_address() {
    let env = serve(guard(one_a_second(3)).await).await;

    let mut codes = Vec::new();
    for _ in 0..20 {
        codes.push(env.ask("GET /who", &["x-api-key: wrong"], "").await.code());
    }

    assert_eq!(codes[..3], [401, 401, 401]);
    assert!(codes.contains(&429), "{codes:?}");
    assert_eq!(env.ask("GET /who", &[KEY], "").await.code(), 200, "right ones are not concerned");
}

#[tokio::test]
async fn bytes_of_bodies_are_limited_with_and_without_their_length() {
    let limit =
        RateLimit { bytes_per_second: Some(1), burst_bytes: Some(10), ..RateLimit::default() };
    let env = serve(guard(limit).await).await;
    let body = "x".repeat(500);

    assert_eq!(env.ask("POST /length", &[KEY], &body).await.body(), "500");
    let chunked = format!(
        "POST /length HTTP/1.1\r\nhost: t\r\nconnection: close\r\n{OTHER}\r\n\
         transfer-encoding: chunked\r\n\r\n1f4\r\n{body}\r\n0\r\n\r\n"
    );
    assert!(env.write(chunked).await.rest().await.ends_with("500"));

    for header in [KEY, OTHER] {
        let answer = env.ask("GET /hello", &[header], "").await;
        assert_too_fast(&answer, "at most 1 bytes per second are allowed");
    }
}

#[tokio::test]
async fn open_routes_need_no_credentials_and_all_others_do() {
    let auth = guard(RateLimit::default()).await;
    let routes = |path: &str| axum::Router::new().route(path, axum::routing::get(|| async { "here" }));
    let bound = Bound::bind(&listener(), "test", auth).await.unwrap().with_open(routes("/page"));
    let address = bound.address();
    let _server = bound.serve(routes("/data"), &web::Metrics::default());
    let code = async |path: &str| {
        let answer = reqwest::get(format!("http://{address}{path}")).await.unwrap();
        answer.status().as_u16()
    };

    assert_eq!(code("/page").await, 200);
    assert_eq!(code("/data").await, 401);
    assert_eq!(code("/other").await, 401);
}
