use axum::Router;
use axum::http::header::AUTHORIZATION;
use axum::http::{Extensions, HeaderValue};
use axum::routing::post;
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use google_cloud_auth::credentials::{CacheableResource, CredentialsProvider, EntityTag};
use google_cloud_auth::errors::CredentialsError;
use serde_json::json;
use tempfile::TempDir;

use super::super::{Access, Headers, Login};
use super::*;

/// Value that no text may show.
const SECRET: &str = "hunter2";

fn service_account() -> Value {
    let key = rcgen::KeyPair::generate_for(&rcgen::PKCS_RSA_SHA256).unwrap();
    json!({
        "type": "service_account", "client_email": "robot@p.iam.gserviceaccount.com", "private_key_id": "1",
        "private_key": key.serialize_pem(), "project_id": "p",
    })
}

fn authorized_user() -> Value {
    json!({
        "type": "authorized_user", "client_id": "id", "client_secret": SECRET, "refresh_token": SECRET,
        "quota_project_id": "payer",
    })
}

fn external_account() -> Value {
    json!({
        "type": "external_account", "audience": "//iam.googleapis.com/pool", "token_url": "http://127.0.0.1:1/",
        "subject_token_type": "urn:ietf:params:oauth:token-type:jwt", "credential_source": { "file": "/token" },
    })
}

fn impersonated(source: Value) -> Value {
    json!({
        "type": "impersonated_service_account", "source_credentials": source,
        "service_account_impersonation_url": "http://127.0.0.1:1/v1/projects/-/serviceAccounts/r@p:generateAccessToken",
    })
}

/// Folder with one credentials file.
struct Written(TempDir);

impl Written {
    fn new(content: &str) -> Self {
        let folder = tempfile::tempdir().unwrap();
        std::fs::write(folder.path().join("key.json"), content).unwrap();
        Self(folder)
    }

    fn path(&self) -> PathBuf {
        self.0.path().join("key.json")
    }

    fn identity(&self) -> Identity {
        GoogleSettings { credentials_file: Some(self.path()) }.identity()
    }
}

/// Returns the headers of a call to Google, with this identity.
async fn headers(identity: &Identity) -> Headers {
    let access = Access::find(None, Some(Login::ApplicationDefault), identity).await.unwrap();
    access.headers().await.unwrap()
}

#[tokio::test]
async fn a_file_of_each_supported_type_is_taken() {
    crate::install_crypto();
    for content in
        [service_account(), authorized_user(), external_account(), impersonated(authorized_user())]
    {
        let file = Written::new(&content.to_string());

        let read = CredentialsFile::read(&file.path()).unwrap();

        assert_eq!(read.kind(), content["type"]);
        assert_eq!(read.quota_project(), content["quota_project_id"].as_str());
        read.build().unwrap();
    }
}

#[test]
fn a_wrong_file_is_named_without_its_content() {
    let without = |mut content: Value, member: &str| {
        content.as_object_mut().unwrap().remove(member);
        content.to_string()
    };
    let with = |mut content: Value, member: &str, value: Value| {
        content[member] = value;
        content.to_string()
    };
    let elliptic = rcgen::KeyPair::generate().unwrap().serialize_pem();
    let other = json!({ "type": "gdch_service_account", "private_key": SECRET });
    let nested = impersonated(json!({ "type": "authorized_user", "client_secret": SECRET }));
    for (content, fault) in [
        (format!("{{\"private_key\": \"{SECRET}\",\n  oops}}"), "is no JSON: line 2, column 3"),
        (json!({ "private_key": SECRET }).to_string(), "has no known `type`"),
        (json!({ "type": SECRET }).to_string(), "has no known `type`"),
        (json!([SECRET]).to_string(), "has no known `type`"),
        (
            other.to_string(),
            "has the type gdch_service_account; supported are the types service_account",
        ),
        (without(service_account(), "client_email"), "has no text `client_email`"),
        (with(service_account(), "private_key", 7.into()), "has no text `private_key`"),
        (
            with(service_account(), "private_key", SECRET.into()),
            "has a `private_key` that is no PEM",
        ),
        (
            with(service_account(), "private_key", elliptic.into()),
            "has a `private_key` that is no RSA key",
        ),
        (without(authorized_user(), "refresh_token"), "has no text `refresh_token`"),
        (without(external_account(), "credential_source"), "has no object `credential_source`"),
        (nested.to_string(), "in `source_credentials`: has no text `client_id`"),
    ] {
        let file = Written::new(&content);

        let told = CredentialsFile::read(&file.path()).map(drop).unwrap_err();

        let wanted = format!("{} {fault}", file.path().display());
        assert!(told.starts_with(&wanted), "{wanted} is not in {told}");
        assert!(!told.contains(SECRET), "{told}");
    }
    let missing = CredentialsFile::read("/missing/key.json".as_ref()).map(drop).unwrap_err();
    assert!(missing.starts_with("/missing/key.json cannot be read: "), "{missing}");
}

#[tokio::test]
async fn a_file_that_is_wrong_later_stops_with_its_setting() {
    let file = Written::new("{}");

    let found = Access::find(None, Some(Login::ApplicationDefault), &file.identity()).await;

    let error = found.unwrap_err();
    assert_eq!(error.recovery(), Recovery::Stop);
    let wanted = format!("find credentials: google.credentials_file: {}", file.path().display());
    assert!(format!("{error:#}").starts_with(&wanted), "{error:#}");
}

#[tokio::test]
async fn calls_bear_a_token_that_the_service_account_has_signed() {
    crate::install_crypto();
    let file = Written::new(&service_account().to_string());

    let headers = headers(&file.identity()).await;

    let token = headers["authorization"].to_str().unwrap().strip_prefix("Bearer ").unwrap();
    let claims = URL_SAFE_NO_PAD.decode(token.split('.').nth(1).unwrap()).unwrap();
    let claims: Value = serde_json::from_slice(&claims).unwrap();
    assert_eq!(claims["iss"], "robot@p.iam.gserviceaccount.com");
}

#[tokio::test]
async fn calls_bear_the_token_of_the_server_that_the_file_names() {
    crate::install_crypto();
    let token = || async {
        axum::Json(json!({ "access_token": "fetched", "expires_in": 3600, "token_type": "Bearer" }))
    };
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let mut user = authorized_user();
    user["token_uri"] = format!("http://{}/token", listener.local_addr().unwrap()).into();
    let router = Router::new().route("/token", post(token));
    let mut tasks = tokio::task::JoinSet::new();
    tasks.spawn(async move { axum::serve(listener, router).await.unwrap() });
    let file = Written::new(&user.to_string());

    let headers = headers(&file.identity()).await;

    assert_eq!(headers["authorization"], "Bearer fetched");
    assert_eq!(headers["x-goog-user-project"], "payer");
}

/// Credentials of a program, with a token of its own.
#[derive(Debug)]
struct OwnToken;

impl CredentialsProvider for OwnToken {
    async fn headers(&self, _: Extensions) -> Result<CacheableResource<Headers>, CredentialsError> {
        let token = HeaderValue::from_static("Bearer made by a program");
        let data = Headers::from_iter([(AUTHORIZATION, token)]);
        Ok(CacheableResource::New { entity_tag: EntityTag::new(), data })
    }

    async fn universe_domain(&self) -> Option<String> {
        None
    }
}

#[tokio::test]
async fn calls_bear_the_token_of_credentials_that_a_program_made() {
    let identity = Identity::from(Credentials::from(OwnToken));

    let headers = headers(&identity).await;

    assert_eq!(headers["authorization"], "Bearer made by a program");
}

#[tokio::test]
async fn an_emulator_gets_no_token() {
    crate::install_crypto();
    let file = Written::new(&service_account().to_string());
    let url = "http://127.0.0.1:1".into();

    let access = Access::find(Some(&url), None, &file.identity()).await.unwrap();

    assert!(access.headers().await.unwrap().is_empty());
}

#[test]
fn credentials_that_are_handed_in_come_before_those_of_the_settings() {
    let file = || Identity::File("/key.json".into());

    assert!(matches!(Identity::default().or(file()), Identity::File(_)));
    let given = Identity::Given(google_cloud_auth::credentials::anonymous::Builder::new().build());
    assert!(matches!(given.or(file()), Identity::Given(_)));
}
