//! Keys that change while a listener runs.

use std::path::Path;
use std::time::Duration;

use axum::http::StatusCode;
use web::auth::settings::{Auth, Jwt};
use web::{Authenticator, Denied, Identity};

use crate::env::within;
use crate::issuer::{
    KeyServer, SECRET, Signer, ask, ask_with, claims, jwt, key_set, reason, start, start_with,
};

const ONE: &str = "the-first-key-of-at-least-32-characters";
const TWO: &str = "the-second-key-of-at-least-32-characters";

async fn is_known(auth: &Authenticator, key: &str) -> bool {
    ask(auth, &[("x-api-key", key)]).await.is_ok()
}

async fn with_keys(file: &Path) -> Authenticator {
    start(Auth { api_keys_file: Some(file.into()), ..Auth::default() }).await
}

/// Waits until a file has been read again. Time is paused, so it passes at once.
async fn reread() {
    tokio::time::sleep(Duration::from_secs(6)).await;
}

#[tokio::test(start_paused = true)]
async fn an_api_key_is_added_and_revoked_while_running() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("keys");
    std::fs::write(&file, ONE).unwrap();
    let auth = with_keys(&file).await;
    assert!(is_known(&auth, ONE).await && !is_known(&auth, TWO).await);

    std::fs::write(&file, format!("{ONE}\n{TWO}")).unwrap();
    reread().await;
    assert!(is_known(&auth, ONE).await && is_known(&auth, TWO).await);

    std::fs::write(&file, TWO).unwrap();
    reread().await;
    assert!(!is_known(&auth, ONE).await && is_known(&auth, TWO).await);

    std::fs::write(&file, "[]").unwrap();
    reread().await;
    assert!(!is_known(&auth, TWO).await);
}

#[tokio::test(start_paused = true)]
async fn a_file_that_is_gone_or_broken_keeps_its_keys() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("keys");
    std::fs::write(&file, ONE).unwrap();
    let auth = with_keys(&file).await;

    for broken in ["", "short", "- name: x"] {
        std::fs::write(&file, broken).unwrap();
        reread().await;
        assert!(is_known(&auth, ONE).await, "{broken}");
    }
    std::fs::remove_file(&file).unwrap();
    reread().await;
    assert!(is_known(&auth, ONE).await);

    std::fs::write(&file, TWO).unwrap();
    reread().await;
    assert!(!is_known(&auth, ONE).await && is_known(&auth, TWO).await);
}

#[tokio::test(start_paused = true)]
async fn public_keys_and_secrets_of_files_rotate() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("jwks");
    let (old, new) = (Signer::ec(), Signer::ec());
    let auth = start_with(&file, &[old.public("old")]).await;

    // The same id with another key: no caller asks for it to be read.
    std::fs::write(&file, key_set(&[new.public("old")])).unwrap();
    ask_with(&auth, &old.token("old", &claims())).await.unwrap();
    reread().await;
    ask_with(&auth, &new.token("old", &claims())).await.unwrap();
    assert!(ask_with(&auth, &old.token("old", &claims())).await.is_err());

    let secret = folder.path().join("secret");
    std::fs::write(&secret, SECRET).unwrap();
    let jwt = Jwt { hs256_secret_file: Some(secret.clone()), ..jwt() };
    let auth = start(Auth { jwt: Some(jwt), ..Auth::default() }).await;
    std::fs::write(&secret, [b'n'; 32]).unwrap();
    reread().await;
    ask_with(&auth, &Signer::Secret(vec![b'n'; 32]).token("", &claims())).await.unwrap();
}

#[tokio::test]
async fn a_token_of_a_new_key_has_the_url_fetched_at_once() {
    let (old, new) = (Signer::ec(), Signer::rsa());
    let server = KeyServer::start(&[old.public("old")]).await;
    let auth = start(server.settings()).await;
    ask_with(&auth, &old.token("old", &claims())).await.unwrap();
    assert_eq!(server.count(), 1);

    server.has(&[old.public("old"), new.public("new")]);

    let token = new.token("new", &claims());
    let (one, two) = tokio::join!(ask_with(&auth, &token), ask_with(&auth, &token));
    assert_eq!((one.is_ok(), two.is_ok()), (true, true));
    assert_eq!(server.count(), 2, "callers share one request");
}

#[tokio::test]
async fn a_flood_of_unknown_keys_is_one_request() {
    let signer = Signer::ec();
    let server = KeyServer::start(&[signer.public("known")]).await;
    let auth = start(server.settings()).await;

    let flood = (0..1000).map(|number| {
        let (auth, token) = (auth.clone(), signer.token(&format!("{number}"), &claims()));
        async move { reason(ask_with(&auth, &token).await) }
    });
    let answers = within(futures::future::join_all(flood)).await;

    assert!(answers.iter().all(|why| why == "the key of the token (kid) is not known"));
    assert_eq!(server.count(), 2, "one at the start, and one for the flood");
    ask_with(&auth, &signer.token("known", &claims())).await.unwrap();
}

#[tokio::test]
async fn a_url_is_fetched_at_its_interval() {
    let (old, new) = (Signer::ec(), Signer::ec());
    let server = KeyServer::start(&[old.public("same")]).await;
    let mut settings = server.settings();
    settings.jwt.as_mut().unwrap().refresh_interval = Duration::from_millis(20);
    let auth = start(settings).await;

    server.has(&[new.public("same")]);

    let token = new.token("same", &claims());
    within(async {
        while ask_with(&auth, &token).await.is_err() {
            tokio::task::yield_now().await;
        }
    })
    .await;
    assert!(ask_with(&auth, &old.token("same", &claims())).await.is_err());
}

#[tokio::test]
async fn a_url_that_fails_keeps_its_keys() {
    let signer = Signer::ec();
    let server = KeyServer::start(&[signer.public("known")]).await;
    let mut settings = server.settings();
    settings.jwt.as_mut().unwrap().refresh_interval = Duration::from_millis(20);
    let auth = start(settings).await;

    let other = key_set(&[Signer::ec().public("known")]);
    for (status, body) in [
        (StatusCode::INTERNAL_SERVER_ERROR, other.clone()),
        (StatusCode::OK, key_set(&[])),
        (StatusCode::OK, "{".into()),
        (StatusCode::OK, format!("{other}{}", " ".repeat(2 * 1024 * 1024))),
    ] {
        server.answer.send_replace((status, body));
        let seen = server.count();
        within(async {
            // The answer of the request before the last one has been processed.
            while server.count() < seen + 2 {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        })
        .await;
        ask_with(&auth, &signer.token("known", &claims())).await.unwrap();
    }
}

#[tokio::test]
async fn without_any_keys_tokens_are_refused_for_now() {
    let signer = Signer::ec();
    let server = KeyServer::start(&[]).await;
    let auth = start(server.settings()).await;
    let token = signer.token("known", &claims());

    let refused = ask_with(&auth, &token).await;

    let why = "the keys of the tokens cannot be read now".to_owned();
    assert_eq!(refused, Err(Denied::Unavailable { why, retry_after: Duration::from_secs(10) }));
}

#[tokio::test]
async fn a_redirect_to_other_keys_is_not_followed() {
    let signer = Signer::ec();
    let server = KeyServer::start(&[signer.public("known")]).await;
    let url = server.url.replace("/keys", "/moved");
    let jwt = Jwt { jwks_url: Some(url), ..jwt() };
    let auth = start(Auth { jwt: Some(jwt), ..Auth::default() }).await;

    let refused = ask_with(&auth, &signer.token("known", &claims())).await;

    assert!(matches!(refused, Err(Denied::Unavailable { .. })), "{refused:?}");
    assert_eq!(server.count(), 0);
}

#[tokio::test]
async fn wrong_files_are_refused_at_the_start_without_their_content() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("file");
    let with = |jwt: Jwt| Auth { jwt: Some(jwt), ..Auth::default() };
    let jwks = with(Jwt { jwks_file: Some(file.clone()), ..jwt() });
    let secret = with(Jwt { hs256_secret_file: Some(file.clone()), ..jwt() });
    let keys = Auth { api_keys_file: Some(file.clone()), ..Auth::default() };

    for (auth, content, said) in [
        (&jwks, "{the-secret", "auth.jwt.jwks_file: is no JSON Web Key Set"),
        (&jwks, r#"{"keys":[{"kty":"oct","k":"dGhlLXNlY3JldA"}]}"#, "has no public key"),
        (&secret, "the-secret", "auth.jwt.hs256_secret_file: must hold at least 32 bytes"),
        (&secret, "-----BEGIN PUBLIC KEY-----\nMIIBIjANBgkqhkiG9w0BAQEFAAO", "in PEM"),
        (&keys, "the-secret", "auth.api_keys_file: line 1: a key must have at least 32"),
        (&with(jwt()), "", "auth.jwt: needs one of jwks_file, jwks_url and hs256_secret_file"),
    ] {
        std::fs::write(&file, content).unwrap();
        let error = Authenticator::start(auth, "auth").await.unwrap_err();
        assert!(error.to_string().contains(said), "{error:#}");
        assert!(error.is::<service::WrongSettings>());
        assert!(!error.to_string().contains("the-secret"), "{error:#}");
    }
}

#[tokio::test]
async fn keys_and_tokens_may_be_used_side_by_side() {
    let folder = tempfile::tempdir().unwrap();
    let (keys, jwks) = (folder.path().join("keys"), folder.path().join("jwks"));
    let dotted = format!("a.b.{ONE}");
    let entries = format!(
        "- {{name: gateway, key: {ONE}, scopes: [ingest]}}\n\
         - {{name: dotted, key: {dotted}, scopes: [read]}}"
    );
    std::fs::write(&keys, entries).unwrap();
    let signer = Signer::ed();
    std::fs::write(&jwks, key_set(&[signer.public("ed")])).unwrap();
    let jwt = Jwt { jwks_file: Some(jwks), ..jwt() };
    let auth = start(Auth { jwt: Some(jwt), api_keys_file: Some(keys), ..Auth::default() }).await;

    let gateway = Ok(Identity::new("gateway", ["ingest"]));
    assert_eq!(ask_with(&auth, ONE).await, gateway);
    assert_eq!(ask(&auth, &[("x-api-key", ONE)]).await, gateway);
    assert_eq!(ask_with(&auth, &dotted).await, Ok(Identity::new("dotted", ["read"])));
    ask_with(&auth, &signer.token("ed", &claims())).await.unwrap();
    let token = signer.token("ed", &claims());
    assert_eq!(reason(ask(&auth, &[("x-api-key", &token)]).await), "the API key is not known");
    assert_eq!(reason(ask_with(&auth, TWO).await), "the API key is not known");
    assert!(!format!("{auth:?}").contains("the-first"));
}
