//! Answers to honest clients: success, errors in JSON, refusals, counts.

use prometheus_client::registry::Registry;
use web::{Bound, Listener, Open};

use crate::env::{ByName, TestEnv, listener, patient};

#[tokio::test]
async fn success_is_answered_as_the_handler_says() {
    let env = TestEnv::start().await;

    let answer = env.ask("POST /length", &[], "seven b").await;

    assert_eq!((answer.code(), answer.body()), (200, "7"));
    assert_eq!(env.ask("POST /length", &[], &"x".repeat(1000)).await.body(), "1000");
    assert_eq!(env.get("/who").await.body(), "", "nobody is asked who they are");
    assert_eq!(env.get("/write").await.code(), 200, "and everybody has all scopes");
}

#[tokio::test]
async fn every_error_is_a_problem_in_json() {
    let env = TestEnv::start().await;

    assert_eq!(env.get("/nowhere").await.detail(404), "there is no such path");
    let wrong_method = env.ask("DELETE /hello", &[], "").await;
    assert_eq!(wrong_method.detail(405), "the path does not have this method");
    assert_eq!(wrong_method.header("allow"), Some("GET,HEAD"));
    let not_json = env.ask("POST /json", &["content-type: application/json"], "{").await;
    assert!(not_json.detail(400).starts_with("Failed to parse the request body"), "{not_json:?}");
    assert!(env.ask("POST /json", &[], "{}").await.detail(415).contains("Content-Type"));
    let field = env.get("/field").await;
    assert_eq!(field.detail(400), "no");
    assert!(field.body().ends_with(r#""field":"limit"}"#), "{field:?}");
}

#[tokio::test]
async fn a_body_that_is_announced_too_large_is_refused_unread() {
    let env = TestEnv::start().await;
    let request = "POST /length HTTP/1.1\r\nhost: localhost\r\ncontent-length: 1001\r\n\r\n";

    let answer = env.write(request).await.rest().await;

    assert!(answer.starts_with("HTTP/1.1 413"), "{answer}");
    assert!(answer.contains("the body may have at most 1000 bytes"), "{answer}");
}

#[tokio::test]
async fn a_handler_that_panics_is_answered_and_its_connection_lives_on() {
    let env = TestEnv::start().await;
    let mut client = env.write("GET /panics HTTP/1.1\r\nhost: localhost\r\n\r\n").await;
    let answer = client.until("}").await;

    client.write("GET /hello HTTP/1.1\r\nhost: localhost\r\n\r\n").await;
    let next = client.until("hello").await;

    assert!(answer.starts_with("HTTP/1.1 500"), "{answer}");
    assert!(!answer.contains("a defect"), "the text of the panic is for the log: {answer}");
    assert!(next.starts_with("HTTP/1.1 200"), "{next}");
}

#[tokio::test]
async fn callers_without_credentials_or_scopes_are_refused() {
    let anywhere = Listener { host: "0.0.0.0".into(), ..listener() };
    let env = TestEnv::with(&anywhere, ByName, patient()).await;
    let reader = ["authorization: reader"];

    let unknown = env.get("/hello").await;

    assert_eq!(unknown.detail(401), "send who you are");
    assert_eq!(unknown.header("www-authenticate"), Some("Bearer"));
    assert_eq!(env.get("/nowhere").await.code(), 401, "paths are not told to strangers");
    assert_eq!(env.ask("GET /who", &reader, "").await.body(), "reader");
    assert_eq!(env.ask("GET /write", &reader, "").await.detail(403), "needs the scope write");
}

#[tokio::test]
async fn without_authentication_only_loopback_is_bound() {
    let anywhere = Listener { host: "0.0.0.0".into(), ..listener() };

    let refused = Bound::bind(&anywhere, "test", Open::on_loopback()).await.unwrap_err();

    let text = refused.to_string();
    assert!(text.starts_with("test.host: must be loopback, such as 127.0.0.1"), "{text}");
    assert!(refused.is::<service::WrongSettings>(), "the exit code tells it too");
    Bound::bind(&anywhere, "test", Open::anywhere()).await.unwrap();
}

#[tokio::test]
async fn a_taken_port_is_told_with_its_key() {
    let env = TestEnv::start().await;
    let taken = Listener { port: env.address.port(), ..listener() };

    let refused = Bound::bind(&taken, "test", Open::on_loopback()).await.unwrap_err();

    assert!(refused.to_string().contains("set test.port to a free port"), "{refused:#}");
}

#[tokio::test]
async fn answers_are_counted_by_class() {
    let env = TestEnv::start().await;
    for path in ["/hello", "/hello", "/nowhere", "/panics"] {
        env.get(path).await;
    }
    let mut registry = Registry::default();
    env.metrics.register(&mut registry, &["test"]);

    let mut text = String::new();
    prometheus_client::encoding::text::encode(&mut text, &registry).unwrap();

    for (class, count) in [("2xx", 2), ("3xx", 0), ("4xx", 1), ("5xx", 1)] {
        let line = format!(
            "dataflow_web_requests_total{{listener=\"test\",status=\"{class}\"}} {count}\n"
        );
        assert!(text.contains(&line), "{line} is not in {text}");
    }
}
