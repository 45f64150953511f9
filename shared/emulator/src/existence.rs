//! Projects and databases that do not exist because the profile does not list them.

use axum::extract::Request;
use axum::http::HeaderMap;
use tonic::Code;

use crate::profile::Profile;
use crate::rest::{decode, query};
use crate::status::Status;

/// Refuses a request for a project or a Firestore database that does not exist.
///
/// REST requests name the project in the path or, for buckets, in the query. gRPC requests name it
/// in the headers that Google's clients send for routing. A request without a name is not refused.
pub(crate) fn check(profile: &Profile, request: &Request) -> Result<(), Status> {
    if profile.projects.is_none() && profile.databases.is_none() {
        return Ok(());
    }
    let path = request.uri().path();
    for name in names(path, request.headers()) {
        let parts: Vec<_> = name.split('/').collect();
        let ["projects", project, rest @ ..] = parts.as_slice() else { continue };
        if profile.projects.as_ref().is_some_and(|projects| !projects.contains(*project)) {
            return Err(no_project(path, project));
        }
        let ["databases", database, ..] = rest else { continue };
        let full = format!("projects/{project}/databases/{database}");
        if profile.databases.as_ref().is_some_and(|databases| !databases.contains(&full)) {
            return Err(Status::new(
                Code::NotFound,
                format!("The database {database} does not exist for project {project}"),
            ));
        }
    }
    // Clients with `STORAGE_EMULATOR_HOST` use the second path.
    let names_project = matches!(path, "/storage/v1/b" | "/b");
    let project = query(request.uri()).remove("project").filter(|_| names_project);
    match (project, &profile.projects) {
        (Some(project), Some(projects)) if !projects.contains(&project) => {
            Err(no_project(path, &project))
        }
        _ => Ok(()),
    }
}

/// Returns the names of the resources in a request.
fn names(path: &str, headers: &HeaderMap) -> Vec<String> {
    let mut names = Vec::new();
    let path = path.strip_prefix("/resumable").unwrap_or(path);
    let places = ["/v1/", "/bigquery/v2/", "/upload/bigquery/v2/", "/"].into_iter();
    let mut places = places.filter_map(|place| path.strip_prefix(place));
    names.extend(places.find(|rest| rest.starts_with("projects/")).map(decode));
    let header = |name| headers.get(name).and_then(|value| value.to_str().ok());
    names.extend(header("google-cloud-resource-prefix").map(str::to_owned));
    let routes = header("x-goog-request-params").unwrap_or_default().split('&');
    names.extend(routes.filter_map(|pair| Some(decode(pair.split_once('=')?.1))));
    names
}

fn no_project(path: &str, project: &str) -> Status {
    let text = if path.contains("/bigquery/") {
        format!("Not found: Project {project}")
    } else if path.starts_with("/storage/") || path == "/b" {
        format!("Unknown project id: {project}")
    } else {
        format!(
            "Requested project not found or user does not have access to it (project={project}). \
             Make sure to specify the unique project identifier and not the Google Cloud Console \
             display name."
        )
    };
    Status::new(Code::NotFound, text)
}

#[cfg(test)]
mod tests {
    use axum::body::Body;

    use super::*;

    fn refusal(profile: &Profile, path: &str, headers: &[(&str, &str)]) -> Option<String> {
        let builder = headers
            .iter()
            .fold(Request::get(path), |builder, (name, value)| builder.header(*name, *value));
        let request = builder.body(Body::empty()).expect("a request");
        check(profile, &request).err().map(|status| {
            assert_eq!(status.code, Code::NotFound);
            status.message
        })
    }

    #[test]
    fn requests_for_a_project_that_was_not_made_are_refused_in_the_words_of_their_api() {
        let profile = Profile { projects: Some(["known".into()].into()), ..Profile::default() };
        let bigquery = "Not found: Project other";
        let storage = "Unknown project id: other";
        let pubsub = "Requested project not found or user does not have access to it \
                      (project=other). Make sure to specify the unique project identifier and not \
                      the Google Cloud Console display name.";
        let routed =
            [("x-goog-request-params", "subscription=projects%2Fother%2Fsubscriptions%2Fs")];
        for (path, headers, expected) in [
            ("/v1/projects/other/topics", &[][..], pubsub),
            ("/google.pubsub.v1.Subscriber/Pull", &routed, pubsub),
            ("/bigquery/v2/projects/other/datasets", &[], bigquery),
            ("/resumable/upload/bigquery/v2/projects/other/jobs", &[], bigquery),
            ("/storage/v1/b?project=other", &[], storage),
            ("/b?project=other", &[], storage),
        ] {
            assert_eq!(refusal(&profile, path, headers).as_deref(), Some(expected), "{path}");
            let path = path.replace("other", "known");
            let known = [("x-goog-request-params", "subscription=projects%2Fknown")];
            let headers = if headers.is_empty() { &[][..] } else { &known };
            assert_eq!(refusal(&profile, &path, headers), None, "{path}");
            assert_eq!(refusal(&Profile::default(), &path, &routed), None, "{path}");
        }
        // A parameter of that name means something else elsewhere.
        assert_eq!(refusal(&profile, "/storage/v1/b/x/o?project=other", &[]), None);
        assert_eq!(refusal(&profile, "/google.pubsub.v1.Subscriber/Pull", &[]), None);
    }

    #[test]
    fn a_database_must_have_been_made() {
        let database = |name: &str| format!("projects/p/databases/{name}");
        let profile = Profile { databases: Some([database("(default)")].into()), ..<_>::default() };
        let found = |name: &str| {
            let prefix = database(name);
            let headers = [("google-cloud-resource-prefix", prefix.as_str())];
            refusal(&profile, "/google.firestore.v1.Firestore/Commit", &headers)
        };

        let expected = "The database other does not exist for project p";
        assert_eq!(found("other").as_deref(), Some(expected));
        assert_eq!(found("(default)"), None);
    }
}
