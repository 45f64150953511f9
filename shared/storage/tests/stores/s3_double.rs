//! A double of a store with the API of S3. It refuses requests without a signature, and can fail.

use std::collections::{BTreeMap, VecDeque};
use std::io;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use bytes::Bytes;
use http_body_util::{BodyExt as _, Full};
use hyper::body::Incoming;
use hyper::header::{AUTHORIZATION, IF_NONE_MATCH};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{HeaderMap, Method, Request, Response, StatusCode};
use hyper_util::rt::TokioIo;
use tokio::net::TcpListener;

/// Bucket that exists.
pub(crate) const BUCKET: &str = "archive";
/// Largest page of a listing, so that tests see several.
const PAGE: usize = 2;

type Answer = Response<Full<Bytes>>;

/// What happens to a PUT instead of its usual answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Fault {
    /// Nothing is stored.
    Refuse(StatusCode, &'static str),
    /// The object is stored, and the connection ends without an answer.
    LoseReply,
}

/// Treatment of `If-None-Match`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Conditions {
    /// An object that exists is refused with 412.
    Kept,
    /// The header has no effect, so objects are replaced.
    Ignored,
    /// The header is refused.
    Unknown,
}

/// A stored object, with the headers that it came with.
#[derive(Debug, Clone)]
pub(crate) struct Stored {
    pub(crate) content: Bytes,
    pub(crate) headers: HeaderMap,
}

#[derive(Debug)]
struct State {
    conditions: Conditions,
    objects: BTreeMap<String, Stored>,
    faults: VecDeque<Fault>,
    /// Faults of the probe.
    probe_faults: VecDeque<Fault>,
    may_read: bool,
}

/// The double. Its server ends with the runtime of the test.
pub(crate) struct S3Double {
    pub(crate) url: String,
    state: Arc<Mutex<State>>,
}

impl S3Double {
    pub(crate) async fn start(conditions: Conditions) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let (faults, probe_faults) = (VecDeque::new(), VecDeque::new());
        let objects = BTreeMap::new();
        let state = State { conditions, objects, faults, probe_faults, may_read: true };
        let state = Arc::new(Mutex::new(state));
        tokio::spawn(serve(listener, Arc::clone(&state)));
        Self { url, state }
    }

    /// Adds faults for the next PUTs of objects, except for the probe.
    pub(crate) fn fail(&self, faults: impl IntoIterator<Item = Fault>) {
        lock(&self.state).faults.extend(faults);
    }

    /// Adds faults for the next PUTs of the probe.
    pub(crate) fn fail_probe(&self, faults: impl IntoIterator<Item = Fault>) {
        lock(&self.state).probe_faults.extend(faults);
    }

    /// Takes the right to read objects away.
    pub(crate) fn forbid_reading(&self) {
        lock(&self.state).may_read = false;
    }

    /// Returns the objects, except for the probe.
    pub(crate) fn objects(&self) -> BTreeMap<String, Stored> {
        let mut objects = lock(&self.state).objects.clone();
        objects.retain(|name, _| !name.starts_with(".dataflow"));
        objects
    }
}

fn lock(state: &Mutex<State>) -> MutexGuard<'_, State> {
    state.lock().unwrap_or_else(PoisonError::into_inner)
}

async fn serve(listener: TcpListener, state: Arc<Mutex<State>>) {
    while let Ok((stream, _)) = listener.accept().await {
        let state = Arc::clone(&state);
        let answering = service_fn(move |request| answer(Arc::clone(&state), request));
        // An error of a connection is what a test asked for.
        tokio::spawn(http1::Builder::new().serve_connection(TokioIo::new(stream), answering));
    }
}

/// Answers a request. An error ends the connection without an answer.
async fn answer(state: Arc<Mutex<State>>, request: Request<Incoming>) -> io::Result<Answer> {
    let (head, body) = request.into_parts();
    let content = body.collect().await.map_err(io::Error::other)?.to_bytes();
    let mut state = lock(&state);
    if !is_signed(&head.headers) {
        return Ok(refusal(StatusCode::FORBIDDEN, "AccessDenied"));
    }
    let path = percent_decode(head.uri.path());
    let Some(name) = path.strip_prefix(&format!("/{BUCKET}")) else {
        return Ok(refusal(StatusCode::NOT_FOUND, "NoSuchBucket"));
    };
    let name = name.trim_start_matches('/').to_owned();
    match head.method {
        Method::PUT => state.put(name, Stored { content, headers: head.headers }),
        Method::GET if name.is_empty() => Ok(state.list(head.uri.query().unwrap_or_default())),
        Method::GET if !state.may_read => Ok(refusal(StatusCode::FORBIDDEN, "AccessDenied")),
        Method::GET => Ok(match state.objects.get(&name) {
            Some(found) => with_tags(Response::new(Full::new(found.content.clone()))),
            None => refusal(StatusCode::NOT_FOUND, "NoSuchKey"),
        }),
        _ => Ok(refusal(StatusCode::METHOD_NOT_ALLOWED, "MethodNotAllowed")),
    }
}

impl State {
    fn put(&mut self, name: String, stored: Stored) -> io::Result<Answer> {
        let is_probe = name.starts_with(".dataflow");
        let faults = if is_probe { &mut self.probe_faults } else { &mut self.faults };
        let fault = faults.pop_front();
        if let Some(Fault::Refuse(status, code)) = fault {
            return Ok(refusal(status, code));
        }
        let has_condition = stored.headers.get(IF_NONE_MATCH).is_some_and(|value| value == "*");
        match self.conditions {
            Conditions::Unknown if has_condition => {
                return Ok(refusal(StatusCode::NOT_IMPLEMENTED, "NotImplemented"));
            }
            Conditions::Kept if has_condition && self.objects.contains_key(&name) => {
                return Ok(refusal(StatusCode::PRECONDITION_FAILED, "PreconditionFailed"));
            }
            Conditions::Kept | Conditions::Ignored | Conditions::Unknown => {}
        }
        self.objects.insert(name, stored);
        match fault {
            Some(Fault::LoseReply) => Err(io::ErrorKind::ConnectionAborted.into()),
            _ => Ok(with_tags(Response::new(Full::default()))),
        }
    }

    fn list(&self, query: &str) -> Answer {
        let value = |key: &str| {
            let pairs = query.split('&').filter_map(|pair| pair.split_once('='));
            let mut values = pairs.filter(|(name, _)| *name == key).map(|(_, value)| value);
            values.next().map(percent_decode).unwrap_or_default()
        };
        let (prefix, after) =
            (value("prefix"), value("start-after").max(value("continuation-token")));
        let wanted = |name: &&String| name.starts_with(&prefix) && **name > after;
        let names: Vec<_> = self.objects.keys().filter(wanted).take(PAGE + 1).collect();
        let contents: String = names.iter().take(PAGE).map(|name| content_of(name)).collect();
        let next = match names.get(PAGE - 1).filter(|_| names.len() > PAGE) {
            Some(last) => format!(
                "<IsTruncated>true</IsTruncated><NextContinuationToken>{last}</NextContinuationToken>"
            ),
            None => "<IsTruncated>false</IsTruncated>".into(),
        };
        let body = format!("<ListBucketResult>{next}{contents}</ListBucketResult>");
        Response::new(Full::new(body.into()))
    }
}

fn content_of(name: &str) -> String {
    let time = "<LastModified>2025-06-15T10:00:00.000Z</LastModified>";
    format!("<Contents><Key>{name}</Key>{time}<ETag>\"e\"</ETag><Size>1</Size></Contents>")
}

fn is_signed(headers: &HeaderMap) -> bool {
    let signature = headers.get(AUTHORIZATION).and_then(|value| value.to_str().ok());
    signature.is_some_and(|text| {
        text.starts_with("AWS4-HMAC-SHA256 Credential=key/") && text.contains("Signature=")
    })
}

fn with_tags(mut answer: Answer) -> Answer {
    let headers = answer.headers_mut();
    headers.insert("etag", "\"e\"".parse().unwrap());
    headers.insert("last-modified", "Sun, 15 Jun 2025 10:00:00 GMT".parse().unwrap());
    answer
}

fn refusal(status: StatusCode, code: &str) -> Answer {
    let body = format!("<Error><Code>{code}</Code><Message>hunter2</Message></Error>");
    Response::builder().status(status).body(Full::new(body.into())).unwrap()
}

fn percent_decode(text: &str) -> String {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.bytes();
    while let Some(byte) = rest.next() {
        bytes.push(match byte {
            b'%' => {
                let digits = [rest.next().unwrap(), rest.next().unwrap()];
                u8::from_str_radix(std::str::from_utf8(&digits).unwrap(), 16).unwrap()
            }
            byte => byte,
        });
    }
    String::from_utf8(bytes).unwrap()
}
