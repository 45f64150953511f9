//! Authentication of callers.

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::time::Duration;

use axum::extract::{Request, State};
use axum::http::{HeaderMap, HeaderValue, StatusCode, header};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};

use crate::connection::Peer;
use crate::{Problem, Reach};

mod api_keys;
mod authenticator;
mod content;
mod jwt;
mod key_set;
mod rates;
pub mod scope;
pub mod settings;
mod watched;

pub use authenticator::Authenticator;
pub use rates::{Client, Quota, RateLimiter};

/// Decides who sends a request, by its headers.
///
/// It is asked once for each request, before the body is read, also for paths that do not exist.
/// Preflights of browsers are not asked about, because browsers send them without credentials.
pub trait Authenticate: Clone + Send + Sync + 'static {
    /// Returns the identity of the caller.
    ///
    /// # Errors
    /// The caller is refused.
    fn authenticate(
        &self,
        headers: &HeaderMap,
    ) -> impl Future<Output = Result<Identity, Denied>> + Send;

    /// Returns the limits on the speed of clients, if there are any.
    fn rates(&self) -> Option<&RateLimiter> {
        None
    }

    /// Returns the schemes of credentials that it takes, as 401 names them [RFC 9110, 11.6.1].
    fn schemes(&self) -> &'static [&'static str] {
        &["Bearer"]
    }

    /// Returns the addresses at which a listener with this authentication may be reached.
    fn reach(&self) -> Reach {
        Reach::Anywhere
    }
}

/// Caller of a request. Handlers take it as an `axum::Extension`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Identity {
    /// Name of the caller, as its credentials have it. `None` if nobody asked for credentials.
    pub subject: Option<String>,
    scopes: Option<BTreeSet<String>>,
}

impl Identity {
    /// Creates an authenticated caller that has these scopes.
    #[must_use]
    pub fn new(
        subject: impl Into<String>,
        scopes: impl IntoIterator<Item = impl Into<String>>,
    ) -> Self {
        let scopes = scopes.into_iter().map(Into::into).collect();
        Self { subject: Some(subject.into()), scopes: Some(scopes) }
    }

    /// Creates a caller without a name, who has all scopes.
    #[must_use]
    pub fn unknown() -> Self {
        Self { subject: None, scopes: None }
    }

    /// Creates a caller without a name and without scopes.
    fn without_rights() -> Self {
        Self { subject: None, scopes: Some(BTreeSet::new()) }
    }

    /// Checks that the caller has a scope.
    ///
    /// # Errors
    /// The caller lacks it.
    pub fn require(&self, scope: &str) -> Result<(), Denied> {
        let has = self.scopes.as_ref().is_none_or(|scopes| scopes.contains(scope));
        has.then_some(()).ok_or_else(|| Denied::Forbidden(format!("needs the scope {scope}")))
    }
}

/// Refusal of a caller. The text is for the caller, so it must not tell a secret.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Denied {
    /// The credentials are missing or wrong: 401.
    Unauthenticated(String),
    /// The caller is known, and may not do this: 403.
    Forbidden(String),
    /// The client sends more than its limits allow: 429.
    TooFast {
        /// Limit that was passed.
        why: String,
        /// Time after which one more request is allowed.
        retry_after: Duration,
    },
    /// The credentials cannot be checked now: 503.
    Unavailable {
        /// Part that is missing.
        why: String,
        /// Time after which it may be there.
        retry_after: Duration,
    },
}

impl IntoResponse for Denied {
    fn into_response(self) -> Response {
        match self {
            Self::Forbidden(why) => Problem::new(StatusCode::FORBIDDEN, why).into_response(),
            Self::Unauthenticated(why) => {
                Problem::new(StatusCode::UNAUTHORIZED, why).into_response()
            }
            Self::TooFast { why, retry_after } => {
                let problem = Problem::new(StatusCode::TOO_MANY_REQUESTS, why);
                (retry_header(retry_after), problem).into_response()
            }
            Self::Unavailable { why, retry_after } => {
                let problem = Problem::new(StatusCode::SERVICE_UNAVAILABLE, why);
                (retry_header(retry_after), problem).into_response()
            }
        }
    }
}

/// Returns the header in whole seconds, rounded up.
fn retry_header(time: Duration) -> [(header::HeaderName, HeaderValue); 1] {
    let seconds = time.as_secs() + u64::from(time.subsec_nanos() > 0);
    [(header::RETRY_AFTER, HeaderValue::from(seconds.max(1)))]
}

/// No authentication: everybody who reaches the port is served.
#[derive(Debug, Clone, Copy)]
pub struct Open(Reach);

impl Open {
    /// Serves everybody on this machine. A listener at another address does not start.
    #[must_use]
    pub fn on_loopback() -> Self {
        Self(Reach::Loopback)
    }

    /// Serves everybody at any address. The caller takes the risk and should warn of it.
    #[must_use]
    pub fn anywhere() -> Self {
        Self(Reach::Anywhere)
    }
}

impl Authenticate for Open {
    async fn authenticate(&self, _headers: &HeaderMap) -> Result<Identity, Denied> {
        Ok(Identity::unknown())
    }

    fn reach(&self) -> Reach {
        self.0
    }
}

/// Request that may pass.
#[derive(Debug)]
pub struct Admitted {
    /// Caller of the request.
    pub identity: Identity,
    /// Count of the bytes of its body. `None` if there are no limits.
    pub quota: Option<Quota>,
}

/// Checks the credentials of a request, and counts it. It works on headers alone, so listeners of
/// other frameworks can call it.
///
/// Wrong credentials count for the address `peer`. Without it, they are not counted.
///
/// # Errors
/// The caller is refused.
pub async fn admit<A: Authenticate>(
    auth: &A,
    headers: &HeaderMap,
    peer: Option<IpAddr>,
) -> Result<Admitted, Denied> {
    let identity = auth.authenticate(headers).await;
    let subject = identity.as_ref().ok().and_then(|identity| identity.subject.as_deref());
    let client = subject.map(Client::Subject).or(peer.map(Client::Peer));
    let quota = auth.rates().zip(client).map(|(rates, client)| rates.admit(client)).transpose()?;
    Ok(Admitted { identity: identity?, quota })
}

/// Authentication of a listener.
#[derive(Debug, Clone)]
pub(crate) struct Gate<A> {
    pub auth: A,
    /// Beginning of the paths that need no credentials.
    pub open: Option<&'static str>,
}

/// Passes requests on with the identity of their caller, or refuses them.
pub(crate) async fn identify<A: Authenticate>(
    State(Gate { auth, open }): State<Gate<A>>,
    mut request: Request,
    next: Next,
) -> Response {
    if open.is_some_and(|open| request.uri().path().starts_with(open)) {
        request.extensions_mut().insert(Identity::without_rights());
        return next.run(request).await;
    }
    let peer = request.extensions().get::<Peer>().map(|peer| peer.0);
    match admit(&auth, request.headers(), peer).await {
        Ok(Admitted { identity, quota }) => {
            request.extensions_mut().insert(identity);
            if let Some(quota) = quota {
                request.extensions_mut().insert(quota);
            }
            next.run(request).await
        }
        Err(denied) => {
            let mut response = denied.into_response();
            if response.status() == StatusCode::UNAUTHORIZED {
                for scheme in auth.schemes() {
                    let scheme = HeaderValue::from_static(scheme);
                    response.headers_mut().append(header::WWW_AUTHENTICATE, scheme);
                }
            }
            response
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_caller_with_the_scope_may_pass() {
        let reader = Identity::new("r", ["read"]);

        assert_eq!(reader.require("read"), Ok(()));
        let refused = Denied::Forbidden("needs the scope ingest".into());
        assert_eq!(reader.require("ingest"), Err(refused));
        assert_eq!(Identity::unknown().require("ingest"), Ok(()));
    }
}
