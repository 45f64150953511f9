//! Maps paths and methods of the JSON API to the names of calls.

use std::collections::HashMap;

use axum::http::Method;

use crate::rest::decode;
use crate::status::Status;

/// Prefixes of paths before `/<bucket>`: Google's paths, those of clients with
/// `STORAGE_EMULATOR_HOST`, and those of uploads. The flag marks uploads.
const PREFIXES: [(&str, bool); 5] = [
    ("/upload/storage/v1/b", true),
    ("/resumable/upload/storage/v1/b", true),
    ("/download/storage/v1/b", false),
    ("/storage/v1/b", false),
    ("/b", false),
];

/// A call of the JSON API.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Route {
    /// Name of the method in the JSON API, as faults use it.
    pub name: &'static str,
    pub bucket: String,
    pub object: String,
    /// Bucket and name of the destination of a copy.
    pub destination: (String, String),
}

impl Route {
    /// Finds the call for a request.
    pub(super) fn find(
        method: &Method,
        path: &str,
        query: &HashMap<String, String>,
    ) -> Result<Self, Status> {
        let unsupported = || Status::unimplemented(&format!("{method} {path}"));
        let (rest, is_upload) = PREFIXES
            .iter()
            .find_map(|(prefix, is_upload)| Some((path.strip_prefix(prefix)?, *is_upload)))
            .filter(|(rest, _)| rest.is_empty() || rest.starts_with('/'))
            .ok_or_else(unsupported)?;
        let pieces: Vec<_> = rest.split('/').skip(1).collect();
        if is_upload {
            let name = upload(method, query).ok_or_else(unsupported)?;
            return match pieces.as_slice() {
                [bucket, "o"] => Ok(Self::new(name, bucket, &[])),
                _ => Err(unsupported()),
            };
        }
        match pieces.as_slice() {
            [] | [""] => of_buckets(method).map(|name| Self::new(name, "", &[])),
            [bucket] => of_bucket(method).map(|name| Self::new(name, bucket, &[])),
            [bucket, "iam", "testPermissions"] if method == Method::GET => {
                Some(Self::new("storage.buckets.testIamPermissions", bucket, &[]))
            }
            [bucket, "o"] => {
                (method == Method::GET).then(|| Self::new("storage.objects.list", bucket, &[]))
            }
            [bucket, "o", rest @ ..] => return Self::of_object(method, bucket, rest, query),
            [_, other, ..] => return Err(part_of(other, path, method)),
        }
        .ok_or_else(unsupported)
    }

    fn of_object(
        method: &Method,
        bucket: &str,
        rest: &[&str],
        query: &HashMap<String, String>,
    ) -> Result<Self, Status> {
        let is_post = method == Method::POST;
        let copied = |name, source: &[&str], to: &str, object: &[&str]| Self {
            destination: (decode(to), decode(&object.join("/"))),
            ..Self::new(name, bucket, source)
        };
        match rest {
            [source, "rewriteTo", "b", to, "o", object @ ..] if is_post => {
                return Ok(copied("storage.objects.rewrite", &[source], to, object));
            }
            [source, "copyTo", "b", to, "o", object @ ..] if is_post => {
                return Ok(copied("storage.objects.copy", &[source], to, object));
            }
            [source, "moveTo", "o", object @ ..] if is_post => {
                return Ok(copied("storage.objects.move", &[source], bucket, object));
            }
            [object @ .., "compose"] if is_post => {
                return Ok(Self::new("storage.objects.compose", bucket, object));
            }
            [_, other @ ("acl" | "iam" | "restore"), ..] => {
                let path = format!("/b/{bucket}/o/{}", rest.join("/"));
                return Err(part_of(other, &path, method));
            }
            _ => {}
        }
        let is_media = query.get("alt").is_some_and(|alt| alt == "media");
        let name = match *method {
            Method::GET if is_media => "storage.objects.read",
            Method::GET => "storage.objects.get",
            Method::DELETE => "storage.objects.delete",
            Method::PATCH => "storage.objects.patch",
            Method::PUT => "storage.objects.update",
            _ => {
                let text = format!("{method} /b/{bucket}/o/{}", rest.join("/"));
                return Err(Status::unimplemented(&text));
            }
        };
        Ok(Self::new(name, bucket, rest))
    }

    fn new(name: &'static str, bucket: &str, object: &[&str]) -> Self {
        let (bucket, object) = (decode(bucket), decode(&object.join("/")));
        Self { name, bucket, object, destination: (String::new(), String::new()) }
    }
}

fn upload(method: &Method, query: &HashMap<String, String>) -> Option<&'static str> {
    let continues = query.contains_key("upload_id");
    match *method {
        Method::DELETE if continues => Some("storage.uploads.cancel"),
        Method::PUT | Method::POST if continues => Some("storage.uploads.continue"),
        Method::POST => Some("storage.objects.insert"),
        _ => None,
    }
}

fn of_buckets(method: &Method) -> Option<&'static str> {
    match *method {
        Method::GET => Some("storage.buckets.list"),
        Method::POST => Some("storage.buckets.insert"),
        _ => None,
    }
}

fn of_bucket(method: &Method) -> Option<&'static str> {
    match *method {
        Method::GET => Some("storage.buckets.get"),
        Method::DELETE => Some("storage.buckets.delete"),
        Method::PATCH => Some("storage.buckets.patch"),
        Method::PUT => Some("storage.buckets.update"),
        _ => None,
    }
}

/// Returns the error for an unsupported collection, with its name.
fn part_of(piece: &str, path: &str, method: &Method) -> Status {
    let collection = match piece {
        "acl" if path.contains("/o/") => "storage.objectAccessControls",
        "acl" => "storage.bucketAccessControls",
        "defaultObjectAcl" => "storage.defaultObjectAccessControls",
        "iam" => "IAM policies of Cloud Storage",
        "notificationConfigs" => "storage.notifications",
        "restore" => "storage.objects.restore",
        "lockRetentionPolicy" => "storage.buckets.lockRetentionPolicy",
        "folders" | "managedFolders" | "anywhereCaches" => "folders and caches of Cloud Storage",
        _ => "this part of Cloud Storage",
    };
    Status::unimplemented(&format!("{collection}: {method} {path}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn find(method: &Method, path: &str) -> Result<Route, Status> {
        Route::find(method, path, &HashMap::new())
    }

    #[test]
    fn every_client_s_paths_lead_to_the_same_calls() {
        for path in ["/storage/v1/b/bucket/o/a%2Fb", "/b/bucket/o/a%2Fb", "/b/bucket/o/a/b"] {
            let route = find(&Method::GET, path).unwrap();
            assert_eq!((route.name, route.object.as_str()), ("storage.objects.get", "a/b"));
        }
        for path in ["/upload/storage/v1/b/bucket/o", "/resumable/upload/storage/v1/b/bucket/o"] {
            assert_eq!(find(&Method::POST, path).unwrap().name, "storage.objects.insert");
        }
        let copy = find(&Method::POST, "/b/one/o/a%2Fb/rewriteTo/b/two/o/c%2Fd").unwrap();
        assert_eq!((copy.bucket.as_str(), copy.object.as_str()), ("one", "a/b"));
        assert_eq!(copy.destination, ("two".into(), "c/d".into()));
    }

    #[test]
    fn access_control_lists_are_not_taken_for_objects() {
        for (path, name) in [
            ("/storage/v1/b/bucket/o/x/acl", "storage.objectAccessControls"),
            ("/storage/v1/b/bucket/acl", "storage.bucketAccessControls"),
            ("/storage/v1/b/bucket/notificationConfigs", "storage.notifications"),
        ] {
            let refused = find(&Method::GET, path).unwrap_err();
            assert_eq!(refused.code, tonic::Code::Unimplemented);
            assert!(refused.message.contains(name), "{refused}");
        }
    }
}
