use axum::routing::{get, post};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

use super::*;
use crate::Hosted;
use crate::scripted::{Scripted, ScriptedSettings, Trouble};
use crate::settings::{Http, ProcessSettings};

fn service() -> Scripted {
    let http = Http { host: "127.0.0.1".into(), port: 0, ..Http::default() };
    let settings =
        ScriptedSettings { process: ProcessSettings { http, ..ProcessSettings::default() } };
    Scripted { trouble: Trouble::None, settings, second: None }
}

/// Returns the answer to a request with this `Host`.
async fn ask_as(hosted: &Hosted, host: &str, path: &str) -> String {
    let mut stream = TcpStream::connect(hosted.address()).await.unwrap();
    let question = format!("GET {path} HTTP/1.0\r\nHost: {host}\r\n\r\n");
    stream.write_all(question.as_bytes()).await.unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.unwrap();
    answer
}

async fn ask(hosted: &Hosted, path: &str) -> String {
    ask_as(hosted, "localhost", path).await
}

/// Returns the error of a start with these routes.
async fn refused(routes: Routes) -> String {
    let started = Hosted::start(service().with_routes(routes)).await;
    started.err().map(|error| format!("{error:#}")).unwrap_or_default()
}

fn any() -> MethodRouter {
    get(async || "mine")
}

#[tokio::test]
async fn a_service_answers_on_its_own_routes_beside_those_of_every_service() {
    let state = String::from("greeting");
    let echo = async |path: axum::extract::Path<String>| path.0;
    let routes = Routes::new()
        .route("/hello", get(async move || state))
        .route("/echo/{*text}", get(echo).post(async || "posted"));

    let hosted = Hosted::start(service().with_routes(routes)).await.unwrap();

    assert!(ask(&hosted, "/hello").await.ends_with("\r\n\r\ngreeting"));
    assert!(ask(&hosted, "/echo/a/b").await.ends_with("\r\n\r\na/b"));
    assert!(ask(&hosted, "/healthz").await.ends_with("\r\n\r\nOK"));
    let list = ask(&hosted, "/").await;
    assert!(list.contains("/status") && list.ends_with("/hello\n/echo/{*text}\n"), "{list}");
    let unknown = ask(&hosted, "/nowhere").await;
    assert!(unknown.starts_with("HTTP/1.0 404") && unknown.contains("/hello\n"), "{unknown}");
}

#[tokio::test]
async fn routes_from_inside_and_from_outside_are_both_there() {
    let inner = service().with_routes(Routes::new().route("/inner", any()));

    let hosted = Hosted::start(inner.with_routes(Routes::new().route("/outer", any()))).await;

    let hosted = hosted.unwrap();
    for path in ["/inner", "/outer"] {
        assert!(ask(&hosted, path).await.ends_with("mine"), "{path}");
    }
}

#[tokio::test]
async fn a_route_that_clashes_fails_the_start_and_says_why() {
    for path in ["/", "/healthz", "/readyz", "/metrics", "/status", "/loglevel"] {
        let expected = format!(
            "the route `{path}` of the service is one of the server itself: choose another path"
        );
        assert_eq!(refused(Routes::new().route(path, any())).await, expected);
        assert_eq!(refused(Routes::new().guarded_route(path, post(async || ""))).await, expected);
    }
    for path in ["/live", "/live/events", "/live/dead-letters", "/live/{*rest}", "/live/mine"] {
        let error = refused(Routes::new().route(path, any())).await;
        assert!(error.contains("`/live`, which belongs to the server"), "{path}: {error}");
    }
    let twice = Routes::new().route("/a", any()).route("/a", post(async || ""));
    let expected =
        "the route `/a` of the service is there twice: join its methods, as in get(..).post(..)";
    assert_eq!(refused(twice).await, expected);
    let captures = Routes::new().route("/a/{one}", any()).guarded_route("/a/{other}", any());
    let error = refused(captures).await;
    assert!(error.contains("`/a/{other}` of the service clashes with `/a/{one}`"), "{error}");
}

#[tokio::test]
async fn a_route_that_is_no_path_fails_the_start_and_says_what_is_right() {
    for (path, right) in [
        ("", "must begin with `/`"),
        ("a", "must begin with `/`"),
        ("/a/:id", "must have its captures in braces, such as `{id}`"),
        ("/*rest", "must have its captures in braces, such as `{id}` or `{*rest}`"),
        ("/{", "is no path: "),
        ("/{*rest}/more", "is no path: "),
    ] {
        let error = refused(Routes::new().route(path, any())).await;

        assert!(error.contains(right), "{path}: {error}");
    }
}

#[tokio::test]
async fn a_guarded_route_answers_only_those_who_may_see_messages() {
    let routes = Routes::new().guarded_route("/secret", any()).route("/open", any());
    let hosted = Hosted::start(service().with_routes(routes)).await.unwrap();

    let local = ask(&hosted, "/secret").await;
    let rebound = ask_as(&hosted, "evil.example.org", "/secret").await;

    assert!(local.ends_with("mine"), "{local}");
    assert!(rebound.starts_with("HTTP/1.0 403"), "{rebound}");
    assert!(ask_as(&hosted, "evil.example.org", "/open").await.ends_with("mine"));
}

#[tokio::test]
async fn a_route_for_everything_does_not_open_the_guarded_ones() {
    for everything in ["/{*rest}", "/{first}/{second}"] {
        let routes = Routes::new().route(everything, any());
        let hosted = Hosted::start(service().with_routes(routes)).await.unwrap();

        assert!(ask(&hosted, "/anything/else").await.ends_with("mine"));
        assert!(ask(&hosted, "/healthz").await.ends_with("OK"));
        for path in ["/live/events?tap=true", "/live/dead-letters"] {
            let answer = ask_as(&hosted, "evil.example.org", path).await;
            assert!(answer.starts_with("HTTP/1.0 403"), "{everything} {path}: {answer}");
        }
        assert!(ask(&hosted, "/live/dead-letters").await.ends_with("[]"));
    }
}
