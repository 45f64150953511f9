//! The API of the emulator itself, below `/emulator/v1/`. Tests use it to set and read its state.

use axum::Json;
use axum::extract::Request;
use axum::http::Method;
use axum::response::{IntoResponse, Response};
use serde_json::Value;

use crate::faults::{Fault, Faults};
use crate::profile::Profile;
use crate::rest::read_json;
use crate::status::Status;

/// Answers these requests below `/emulator/v1/`:
///
/// - `GET`, `POST` and `DELETE faults`: read, add and remove planned faults.
/// - `POST cut`: ends all streams.
/// - `GET calls`: counts of calls that were carried out.
/// - `GET refused`: counts of calls that a fault refused.
/// - `GET ended`: counts of streams that ended because they were idle or old.
/// - `GET`, `PATCH` and `DELETE profile`: read, change and reset the profile.
/// - `POST profile/like-google`: sets the profile to Google's behaviour. The same projects and
///   databases exist as before.
pub(crate) async fn answer(faults: &Faults, request: Request) -> Result<Response, Status> {
    let (parts, body) = request.into_parts();
    let path = parts.uri.path().strip_prefix("/emulator/v1/").unwrap_or_default();
    match (&parts.method, path) {
        (&Method::GET, "calls") => return Ok(Json(faults.calls()).into_response()),
        (&Method::GET, "refused") => return Ok(Json(faults.refused()).into_response()),
        (&Method::GET, "ended") => return Ok(Json(faults.ended()).into_response()),
        (&Method::GET, "faults") => {}
        (&Method::DELETE, "faults") => faults.clear(),
        (&Method::POST, "faults") => {
            faults.add(Fault::read(read_json(body).await?)?);
        }
        (&Method::POST, "cut") => faults.cut_streams(),
        (method, "profile" | "profile/like-google") => {
            let conditions = faults.conditions();
            let profile = match (method, path) {
                (&Method::GET, "profile") => conditions.profile().as_ref().clone(),
                (&Method::PATCH, "profile") => {
                    conditions.profile().patched(&read_json::<Value>(body).await?)?
                }
                (&Method::DELETE, "profile") => Profile::default(),
                (&Method::POST, "profile/like-google") => {
                    let Profile { projects, databases, .. } = conditions.profile().as_ref().clone();
                    Profile { projects, databases, ..Profile::like_google() }
                }
                _ => return Err(Status::unimplemented(&format!("{method} of {path}"))),
            };
            if *method != Method::GET {
                conditions.set(profile.clone());
            }
            return Ok(Json(profile).into_response());
        }
        _ => return Err(Status::unimplemented(parts.uri.path())),
    }
    Ok(Json(faults.planned()).into_response())
}
