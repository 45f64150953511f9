//! Tokens that are accepted, and those that are not.

use serde_json::{Value, json};
use web::auth::settings::{Auth, Jwt};
use web::{Authenticator, Identity};

use crate::issuer::{
    AUDIENCE, SECRET, Signer, ask, ask_with, base64, claims, claims_with, jwt, now, reason, start,
    start_with,
};

/// Authentication with one key of each kind, by their algorithm's name as id.
struct Provider {
    auth: Authenticator,
    signers: [Signer; 3],
    _folder: tempfile::TempDir,
}

impl Provider {
    async fn start() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let signers = [Signer::rsa(), Signer::ec(), Signer::ed()];
        let keys = signers.each_ref().map(|signer| signer.public(signer.algorithm()));
        let auth = start_with(&folder.path().join("jwks"), &keys).await;
        Self { auth, signers, _folder: folder }
    }

    fn ec(&self) -> &Signer {
        &self.signers[1]
    }

    /// Returns the reason why a token with these claims is refused. Its signature is right.
    async fn reason_of(&self, claims: &Value) -> String {
        reason(ask_with(&self.auth, &self.ec().token("ES256", claims)).await)
    }
}

async fn with_secret(secret: &[u8]) -> Authenticator {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("secret");
    std::fs::write(&file, secret).unwrap();
    let jwt = Jwt { hs256_secret_file: Some(file), ..jwt() };
    start(Auth { jwt: Some(jwt), ..Auth::default() }).await
}

#[tokio::test]
async fn each_algorithm_is_accepted_with_its_key() {
    let provider = Provider::start().await;
    let gateway = Identity::new("gateway", ["ingest", "live"]);

    for signer in &provider.signers {
        let token = signer.token(signer.algorithm(), &claims());
        assert_eq!(ask_with(&provider.auth, &token).await, Ok(gateway.clone()));
    }
    let with_line_end = [SECRET, b"\n"].concat();
    let token = Signer::Secret(SECRET.to_vec()).token("any", &claims());
    assert_eq!(ask_with(&with_secret(&with_line_end).await, &token).await, Ok(gateway));
}

#[tokio::test]
async fn a_wrong_signature_is_refused_for_each_algorithm() {
    let provider = Provider::start().await;
    let strangers = [Signer::rsa(), Signer::ec(), Signer::ed()];

    for stranger in &strangers {
        let token = stranger.token(stranger.algorithm(), &claims());
        let why = reason(ask_with(&provider.auth, &token).await);
        assert_eq!(why, "the signature of the token is wrong", "{}", stranger.algorithm());
    }
    let stranger = Signer::Secret(vec![b'x'; 40]).token("", &claims());
    let why = reason(ask_with(&with_secret(SECRET).await, &stranger).await);
    assert_eq!(why, "the signature of the token is wrong");
    // Claims of one token with the signature of another one.
    let right = provider.ec().token("ES256", &claims());
    let parts: Vec<_> = right.split('.').collect();
    let other = base64(claims_with("sub", json!("admin")).to_string());
    let mixed = format!("{}.{other}.{}", parts[0], parts[2]);
    assert_eq!(
        reason(ask_with(&provider.auth, &mixed).await),
        "the signature of the token is wrong"
    );
}

#[tokio::test]
async fn an_unsigned_token_is_refused() {
    let provider = Provider::start().await;

    for algorithm in ["none", "None", "NONE", "nOnE", ""] {
        let header = json!({ "alg": algorithm, "kid": "RS256" });
        let token = Signer::None.token_with(&header, &claims());

        for auth in [&provider.auth, &with_secret(SECRET).await] {
            let why = reason(ask_with(auth, &token).await);
            assert_eq!(why, "the token is no JWT with an algorithm that is allowed here");
        }
    }
    // The algorithm is right, and the signature is missing.
    let token = provider.ec().token("ES256", &claims());
    let (unsigned, _) = token.rsplit_once('.').unwrap();
    let why = reason(ask_with(&provider.auth, &format!("{unsigned}.")).await);
    assert_eq!(why, "the signature of the token is wrong");
}

#[tokio::test]
async fn a_public_key_is_no_secret_of_hs256() {
    let provider = Provider::start().await;
    let does_not_fit = "the algorithm of the token (alg) does not fit the key";

    for signer in &provider.signers {
        let public = signer.public(signer.algorithm());
        let parts = ["n", "x", "k"].map(|part| public[part].as_str().unwrap_or_default());
        for secret in [public.to_string(), parts.concat()] {
            let forged = Signer::Secret(secret.into_bytes());
            let token = forged.token(signer.algorithm(), &claims());
            assert_eq!(reason(ask_with(&provider.auth, &token).await), does_not_fit);
        }
    }
    // The other way round: a token of a public key where a secret is set.
    let token = provider.signers[0].token("RS256", &claims());
    assert_eq!(reason(ask_with(&with_secret(SECRET).await, &token).await), does_not_fit);
}

#[tokio::test]
async fn a_secret_in_a_key_set_is_ignored() {
    let folder = tempfile::tempdir().unwrap();
    let secret = Signer::Secret(SECRET.to_vec());
    let keys = [Signer::ec().public("ec"), secret.public("secret")];
    let auth = start_with(&folder.path().join("jwks"), &keys).await;

    let why = reason(ask_with(&auth, &secret.token("secret", &claims())).await);

    assert_eq!(why, "the key of the token (kid) is not known");
}

#[tokio::test]
async fn an_algorithm_that_does_not_fit_the_key_is_refused() {
    let provider = Provider::start().await;

    for algorithm in ["RS256", "RS384", "PS256", "EdDSA", "ES384", "HS256", "HS512"] {
        let header = json!({ "alg": algorithm, "kid": "ES256" });
        let token = provider.ec().token_with(&header, &claims());
        let why = reason(ask_with(&provider.auth, &token).await);
        assert_eq!(why, "the algorithm of the token (alg) does not fit the key", "{algorithm}");
    }
}

#[tokio::test]
async fn keys_that_are_not_for_our_signatures_are_left_out() {
    let folder = tempfile::tempdir().unwrap();
    let signer = Signer::ec();
    let with = |name: &str, value: Value| {
        let mut key = signer.public(name);
        key[name] = value;
        key
    };
    let keys = [
        Signer::ed().public("ed"),
        with("use", json!("enc")),
        with("alg", json!("ES384")),
        with("key_ops", json!(["sign"])),
        with("crv", json!("P-384")),
        with("kty", json!("unknown")),
        with("x", json!(1)),
        json!("no key"),
        with("more", json!("is ignored")),
    ];
    let auth = start_with(&folder.path().join("jwks"), &keys).await;

    for id in ["use", "alg", "key_ops", "crv", "kty", "x"] {
        let why = reason(ask_with(&auth, &signer.token(id, &claims())).await);
        assert_eq!(why, "the key of the token (kid) is not known", "{id}");
    }
    ask_with(&auth, &signer.token("more", &claims())).await.unwrap();
}

#[tokio::test]
async fn a_token_without_key_id_is_accepted_if_one_key_fits() {
    let folder = tempfile::tempdir().unwrap();
    let [one, two] = [Signer::ec(), Signer::ec()];
    let header = json!({ "alg": "ES256" });
    let token = one.token_with(&header, &claims());
    let keys = [one.public("one"), Signer::rsa().public("rsa"), two.public("two")];

    let few = start_with(&folder.path().join("few"), &keys[..2]).await;
    let many = start_with(&folder.path().join("many"), &keys).await;

    ask_with(&few, &token).await.unwrap();
    let why = reason(ask_with(&many, &token).await);
    assert_eq!(why, "the token must name its key (kid)");
}

#[tokio::test]
async fn times_are_checked_with_the_leeway() {
    let provider = Provider::start().await;

    for (claim, time, why) in [
        ("exp", now() - 70, "the token has expired (exp)"),
        ("exp", 1, "the token has expired (exp)"),
        ("nbf", now() + 70, "the token is not valid yet (nbf)"),
        ("iat", now() + 70, "the token was issued in the future (iat)"),
    ] {
        assert_eq!(provider.reason_of(&claims_with(claim, json!(time))).await, why);
    }
    for (claim, time) in [("exp", now() - 50), ("nbf", now() + 50), ("iat", now() + 50)] {
        let token = provider.ec().token("ES256", &claims_with(claim, json!(time)));
        ask_with(&provider.auth, &token).await.unwrap();
    }
    for claim in ["nbf", "iat"] {
        let token = provider.ec().token("ES256", &claims_with(claim, Value::Null));
        ask_with(&provider.auth, &token).await.unwrap();
    }
}

#[tokio::test]
async fn issuer_and_audience_must_be_ours() {
    let provider = Provider::start().await;

    for other in [json!("https://id.example.org/"), json!(["https://evil.example.org"])] {
        let why = provider.reason_of(&claims_with("iss", other)).await;
        assert_eq!(why, "the token is from another issuer (iss)");
    }
    for other in [json!("Dataflow"), json!(["a", "b"]), json!([])] {
        let why = provider.reason_of(&claims_with("aud", other)).await;
        assert_eq!(why, "the token is for another audience (aud)");
    }
    let listed = claims_with("aud", json!(["other", AUDIENCE]));
    ask_with(&provider.auth, &provider.ec().token("ES256", &listed)).await.unwrap();
}

#[tokio::test]
async fn required_claims_must_be_there_in_the_right_form() {
    let provider = Provider::start().await;

    for claim in ["exp", "iss", "aud"] {
        for wrong in [Value::Null, json!({}), json!(true)] {
            let why = provider.reason_of(&claims_with(claim, wrong.clone())).await;
            assert_eq!(
                why,
                format!("the claim {claim} of the token is missing or wrong"),
                "{wrong}"
            );
        }
    }
    assert!(provider.reason_of(&claims_with("exp", json!("9999999999"))).await.contains("exp"));
    for (claim, wrong) in [
        ("sub", Value::Null),
        ("sub", json!(1)),
        ("iat", json!("now")),
        ("scope", json!(1)),
        ("scp", json!([1])),
    ] {
        let why = provider.reason_of(&claims_with(claim, wrong)).await;
        assert_eq!(why, "the claims of the token are wrong, or sub is missing");
    }
    let why = provider.reason_of(&claims_with("nbf", json!("now"))).await;
    assert_eq!(why, "the claim nbf of the token is missing or wrong");
    let why = provider.reason_of(&claims_with("sub", json!(""))).await;
    assert_eq!(why, "the token has no subject (sub)");
}

#[tokio::test]
async fn an_unknown_key_or_a_critical_header_is_refused() {
    let provider = Provider::start().await;

    let unknown = provider.ec().token("other", &claims());
    let header = json!({ "alg": "ES256", "kid": "ES256", "crit": ["b64"], "b64": false });
    let critical = provider.ec().token_with(&header, &claims());

    let why = reason(ask_with(&provider.auth, &unknown).await);
    assert_eq!(why, "the key of the token (kid) is not known");
    let why = reason(ask_with(&provider.auth, &critical).await);
    assert_eq!(why, "the token has critical headers (crit)");
}

#[tokio::test]
async fn a_key_in_the_token_is_not_trusted() {
    let provider = Provider::start().await;
    let stranger = Signer::ec();
    let header = json!({ "alg": "ES256", "kid": "ES256", "jwk": stranger.public("ES256"),
        "jku": "http://127.0.0.1:1/keys" });

    let why = reason(ask_with(&provider.auth, &stranger.token_with(&header, &claims())).await);

    assert_eq!(why, "the signature of the token is wrong");
}

#[tokio::test]
async fn scopes_are_a_text_or_a_list() {
    let provider = Provider::start().await;

    for (claim, value) in [
        ("scope", json!("read  payload")),
        ("scopes", json!(["read", "payload"])),
        ("scp", json!(["read", "payload"])),
        ("scp", json!("payload read")),
    ] {
        let mut claims = claims_with("scope", Value::Null);
        claims[claim] = value;
        let token = provider.ec().token("ES256", &claims);
        let identity = ask_with(&provider.auth, &token).await.unwrap();
        assert_eq!(identity, Identity::new("gateway", ["read", "payload"]));
    }
    let token = provider.ec().token("ES256", &claims_with("scope", Value::Null));
    let nobody = ask_with(&provider.auth, &token).await.unwrap();
    assert!(nobody.require("read").is_err(), "without scopes, nothing is allowed");
}

#[tokio::test]
async fn credentials_of_a_wrong_form_are_refused() {
    let provider = Provider::start().await;
    let auth = &provider.auth;
    let token = format!("Bearer {}", provider.ec().token("ES256", &claims()));
    let no_jwt = "the token is no JWT with an algorithm that is allowed here";

    for (headers, why) in [
        (&[][..], "send credentials in the header Authorization: Bearer"),
        (
            &[("authorization", "Basic dTpw")],
            "the header Authorization must be `Bearer` and a token",
        ),
        (&[("authorization", "Bearer")], no_jwt),
        (&[("authorization", "Bearer a.b.c")], no_jwt),
        (&[("authorization", "Bearer a.b.c.d.e")], no_jwt),
        (&[("x-api-key", "k")], "API keys are not accepted here, send a token"),
        (
            &[("authorization", &token), ("x-api-key", "k")],
            "send either Authorization or X-Api-Key, not both",
        ),
        (
            &[("authorization", &token), ("authorization", &token)],
            "the header with credentials is wrong",
        ),
        (
            &[("authorization", &format!("Bearer {}", "x".repeat(9000)))],
            "the credentials are too large",
        ),
    ] {
        assert_eq!(reason(ask(auth, headers).await), why, "{headers:?}");
    }
    let lower = token.replacen("Bearer", "bearer", 1);
    ask(auth, &[("authorization", &lower)]).await.unwrap();
}
