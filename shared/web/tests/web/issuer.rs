//! Provider of tokens: keys, signatures that do not come from the library under test, and a server
//! of public keys.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{SystemTime, UNIX_EPOCH};

use aws_lc_rs::hmac;
use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::rsa::{KeyPair as RsaKeyPair, KeySize};
use aws_lc_rs::signature::{
    ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair, Ed25519KeyPair, KeyPair as _, RSA_PKCS1_SHA256,
};
use axum::Router;
use axum::http::{HeaderMap, HeaderName, HeaderValue, StatusCode};
use axum::response::Redirect;
use axum::routing::get;
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde_json::{Value, json};
use tokio::sync::watch;
use web::auth::settings::{Auth, Jwt};
use web::{
    Authenticate as _, Authenticator, Bound, Denied, Identity, Listener, Metrics, Open, Server,
};

pub(crate) const ISSUER: &str = "https://id.example.org";
pub(crate) const AUDIENCE: &str = "dataflow";
pub(crate) const SECRET: &[u8] = b"a secret of at least 32 bytes, indeed";

/// Private key of one algorithm.
pub(crate) enum Signer {
    Rsa(Box<RsaKeyPair>),
    Ec(Box<EcdsaKeyPair>),
    Ed(Ed25519KeyPair),
    /// HMAC with this secret.
    Secret(Vec<u8>),
    /// Unsigned tokens.
    None,
}

pub(crate) fn base64(bytes: impl AsRef<[u8]>) -> String {
    URL_SAFE_NO_PAD.encode(bytes)
}

impl Signer {
    pub(crate) fn rsa() -> Self {
        Self::Rsa(Box::new(RsaKeyPair::generate(KeySize::Rsa2048).unwrap()))
    }

    pub(crate) fn ec() -> Self {
        let pair = EcdsaKeyPair::generate(&ECDSA_P256_SHA256_FIXED_SIGNING);
        Self::Ec(Box::new(pair.unwrap()))
    }

    pub(crate) fn ed() -> Self {
        Self::Ed(Ed25519KeyPair::generate().unwrap())
    }

    pub(crate) fn algorithm(&self) -> &'static str {
        match self {
            Self::Rsa(_) => "RS256",
            Self::Ec(_) => "ES256",
            Self::Ed(_) => "EdDSA",
            Self::Secret(_) => "HS256",
            Self::None => "none",
        }
    }

    /// Returns the public key as a JSON Web Key.
    pub(crate) fn public(&self, id: &str) -> Value {
        let mut key = match self {
            Self::Rsa(pair) => {
                let public = pair.public_key();
                let modulus = public.modulus().big_endian_without_leading_zero();
                let exponent = public.exponent().big_endian_without_leading_zero();
                json!({ "kty": "RSA", "n": base64(modulus), "e": base64(exponent) })
            }
            Self::Ec(pair) => {
                let point = pair.public_key().as_ref();
                let (x, y) = (base64(&point[1..33]), base64(&point[33..]));
                json!({ "kty": "EC", "crv": "P-256", "x": x, "y": y })
            }
            Self::Ed(pair) => {
                json!({ "kty": "OKP", "crv": "Ed25519", "x": base64(pair.public_key()) })
            }
            Self::Secret(secret) => json!({ "kty": "oct", "k": base64(secret) }),
            Self::None => panic!("nothing signs, so nothing is public"),
        };
        key["kid"] = id.into();
        key["use"] = "sig".into();
        key
    }

    fn sign(&self, message: &[u8]) -> Vec<u8> {
        match self {
            Self::Rsa(pair) => {
                let mut signature = vec![0; pair.public_modulus_len()];
                let random = SystemRandom::new();
                pair.sign(&RSA_PKCS1_SHA256, &random, message, &mut signature).unwrap();
                signature
            }
            Self::Ec(pair) => pair.sign(&SystemRandom::new(), message).unwrap().as_ref().to_vec(),
            Self::Ed(pair) => pair.sign(message).as_ref().to_vec(),
            Self::Secret(secret) => {
                let key = hmac::Key::new(hmac::HMAC_SHA256, secret);
                hmac::sign(&key, message).as_ref().to_vec()
            }
            Self::None => Vec::new(),
        }
    }

    /// Returns a token with exactly this header and these claims.
    pub(crate) fn token_with(&self, header: &Value, claims: &Value) -> String {
        let message = format!("{}.{}", base64(header.to_string()), base64(claims.to_string()));
        let signature = base64(self.sign(message.as_bytes()));
        format!("{message}.{signature}")
    }

    /// Returns a token of the key `id`.
    pub(crate) fn token(&self, id: &str, claims: &Value) -> String {
        let header = json!({ "typ": "JWT", "alg": self.algorithm(), "kid": id });
        self.token_with(&header, claims)
    }
}

pub(crate) fn now() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs()
}

/// Returns the claims of a right token.
pub(crate) fn claims() -> Value {
    json!({
        "iss": ISSUER,
        "aud": AUDIENCE,
        "sub": "gateway",
        "iat": now(),
        "nbf": now(),
        "exp": now() + 300,
        "scope": "ingest live",
    })
}

/// Returns the claims of a right token with another value of one claim. Null removes it.
pub(crate) fn claims_with(name: &str, value: Value) -> Value {
    let mut claims = claims();
    if value.is_null() {
        claims.as_object_mut().unwrap().remove(name);
    } else {
        claims[name] = value;
    }
    claims
}

pub(crate) fn jwt() -> Jwt {
    Jwt { issuer: ISSUER.into(), audience: AUDIENCE.into(), ..Jwt::default() }
}

pub(crate) fn key_set(keys: &[Value]) -> String {
    json!({ "keys": keys }).to_string()
}

/// Starts authentication with the public keys in a file.
pub(crate) async fn start_with(file: &Path, keys: &[Value]) -> Authenticator {
    std::fs::write(file, key_set(keys)).unwrap();
    let jwt = Jwt { jwks_file: Some(file.into()), ..jwt() };
    start(Auth { jwt: Some(jwt), ..Auth::default() }).await
}

pub(crate) async fn start(auth: Auth) -> Authenticator {
    Authenticator::start(&auth, "auth").await.unwrap()
}

/// Asks for the identity behind these headers.
pub(crate) async fn ask(
    auth: &Authenticator,
    headers: &[(&'static str, &str)],
) -> Result<Identity, Denied> {
    let headers = headers.iter().map(|(name, value)| {
        (HeaderName::from_static(name), HeaderValue::from_str(value).unwrap())
    });
    let mut all = HeaderMap::new();
    for (name, value) in headers {
        all.append(name, value);
    }
    auth.authenticate(&all).await
}

pub(crate) async fn ask_with(auth: &Authenticator, token: &str) -> Result<Identity, Denied> {
    ask(auth, &[("authorization", &format!("Bearer {token}"))]).await
}

/// Returns the reason of a 401.
pub(crate) fn reason(answer: Result<Identity, Denied>) -> String {
    match answer {
        Err(Denied::Unauthenticated(why)) => why,
        other => panic!("it is no 401: {other:?}"),
    }
}

/// Server of public keys. It counts its requests.
pub(crate) struct KeyServer {
    pub url: String,
    pub requests: Arc<AtomicUsize>,
    /// Status and body of its answers.
    pub answer: watch::Sender<(StatusCode, String)>,
    _server: Server,
}

impl KeyServer {
    pub(crate) async fn start(keys: &[Value]) -> Self {
        let requests = Arc::new(AtomicUsize::new(0));
        let (answer, answers) = watch::channel((StatusCode::OK, key_set(keys)));
        let count = Arc::clone(&requests);
        let routes = Router::new().route(
            "/keys",
            get(async move || {
                count.fetch_add(1, Ordering::Relaxed);
                let (status, keys) = answers.borrow().clone();
                // An error in plain text would become a problem.
                (status, [("content-type", "application/json")], keys)
            }),
        );
        let routes = routes.route("/moved", get(|| async { Redirect::to("/keys") }));
        let listener = Listener { port: 0, ..Listener::default() };
        let bound = Bound::bind(&listener, "keys", Open::on_loopback()).await.unwrap();
        let url = format!("http://{}/keys", bound.address());
        let server = bound.serve(routes, &Metrics::default());
        Self { url, requests, answer, _server: server }
    }

    pub(crate) fn has(&self, keys: &[Value]) {
        self.answer.send_replace((StatusCode::OK, key_set(keys)));
    }

    pub(crate) fn count(&self) -> usize {
        self.requests.load(Ordering::Relaxed)
    }

    pub(crate) fn settings(&self) -> Auth {
        let jwt = Jwt { jwks_url: Some(self.url.clone()), ..jwt() };
        Auth { jwt: Some(jwt), ..Auth::default() }
    }
}
