//! Pages of other origins.

use web::{Listener, Open};

use crate::env::{Answer, ByName, TestEnv, listener, patient};

const LISTED: &str = "origin: https://example.org";
const UNLISTED: &str = "origin: https://example.com";

async fn start() -> TestEnv {
    let listener = Listener { cors: vec!["https://example.org".into()], ..listener() };
    TestEnv::with(&listener, Open::on_loopback(), patient()).await
}

async fn preflight(env: &TestEnv, origin: &str) -> Answer {
    let headers = [
        origin,
        "access-control-request-method: POST",
        "access-control-request-headers: authorization",
    ];
    env.ask("OPTIONS /length", &headers, "").await
}

#[tokio::test]
async fn the_preflight_of_a_listed_origin_is_answered() {
    let env = start().await;

    let answer = preflight(&env, LISTED).await;

    assert_eq!(answer.code(), 200);
    let allowed = ["origin", "methods", "headers"]
        .map(|what| answer.header(&format!("access-control-allow-{what}")).unwrap_or_default());
    assert_eq!(allowed, ["https://example.org", "POST", "authorization"]);
    assert_eq!(answer.header("access-control-allow-credentials"), None);
}

#[tokio::test]
async fn the_preflight_of_any_other_origin_is_refused() {
    let env = start().await;

    for origin in [UNLISTED, "origin: null", "origin: https://example.org.evil", "x: none"] {
        let answer = preflight(&env, origin).await;

        assert_eq!(answer.detail(403), "pages of this origin may not call here", "{origin}");
        assert!(!answer.0.contains("access-control-allow"), "{answer:?}");
    }
}

#[tokio::test]
async fn only_pages_of_a_listed_origin_may_read_answers() {
    let env = start().await;

    let listed = env.ask("GET /hello", &[LISTED], "").await;
    let unlisted = env.ask("GET /hello", &[UNLISTED], "").await;

    let allowed = "access-control-allow-origin";
    assert_eq!((listed.code(), listed.header(allowed)), (200, Some("https://example.org")));
    assert_eq!((unlisted.code(), unlisted.header(allowed)), (200, None));
    assert!(unlisted.header("vary").unwrap().contains("origin"), "caches keep them apart");
    let panic = env.ask("GET /panics", &[LISTED], "").await;
    assert_eq!((panic.code(), panic.header(allowed)), (500, Some("https://example.org")));
}

#[tokio::test]
async fn a_preflight_needs_no_credentials() {
    let listener = Listener { cors: vec!["https://example.org".into()], ..listener() };
    let env = TestEnv::with(&listener, ByName, patient()).await;

    let answer = preflight(&env, LISTED).await;
    let refusal = env.ask("GET /hello", &[LISTED], "").await;

    assert_eq!(answer.code(), 200);
    assert_eq!(refusal.code(), 401);
    assert!(refusal.header("access-control-allow-origin").is_some(), "the page can read why");
}

#[tokio::test]
async fn without_listed_origins_nothing_is_told_to_browsers() {
    let env = TestEnv::start().await;

    assert_eq!(preflight(&env, LISTED).await.code(), 405);
    let answer = env.ask("GET /hello", &[LISTED], "").await;
    assert!(!answer.0.contains("access-control"), "{answer:?}");
}

/// A page can lead its own name to 127.0.0.1, and is of the same origin then.
#[tokio::test]
async fn a_page_under_another_name_is_refused_if_nobody_is_asked_for_credentials() {
    let get = "GET /hello HTTP/1.1\r\nconnection: close\r\nhost: example.org\r\n\r\n";
    let open = TestEnv::start().await;
    let guarded = TestEnv::with(&listener(), ByName, patient()).await;

    let refused = Answer(open.write(get).await.rest().await);
    let asked = Answer(guarded.write(get).await.rest().await);

    let detail = refused.detail(421);
    assert!(detail.contains("set up authentication"), "{detail}");
    assert_eq!(asked.code(), 401);
    assert_eq!(open.get("/hello").await.code(), 200);
}
