//! The REST API of BigQuery.

use std::collections::HashMap;
use std::io::Read as _;

use axum::Json;
use axum::body::Body;
use axum::extract::Request;
use axum::http::request::Parts;
use axum::http::{HeaderMap, Method, StatusCode, header};
use axum::response::{IntoResponse, Response};
use flate2::read::GzDecoder;
use serde_json::{Map, Value, json};
use tonic::Code;

use super::catalog::Catalog;
use super::insert::InsertAll;
use super::jobs::rest as jobs;
use super::names::{DatasetName, TableName};
use super::rows::Page;
use super::schema::Schema;
use super::{BigQuery, error};
use crate::rest::{decode, query, read_bytes, read_json};
use crate::rights;
use crate::status::Status;

/// Largest request, from Google's quotas.
const MAX_REQUEST_BYTES: u64 = 10 * 1024 * 1024;

/// Answers a request below `/bigquery/v2/projects/`.
pub(crate) async fn answer(bigquery: &BigQuery, request: Request) -> Response {
    match route(bigquery, request).await {
        Ok(Value::Null) => StatusCode::NO_CONTENT.into_response(),
        Ok(answer) => Json(answer).into_response(),
        Err(status) => error::answer(&status),
    }
}

/// Answers a request below `/upload/bigquery/v2/projects/`.
pub(crate) async fn upload(bigquery: &BigQuery, request: Request) -> Response {
    super::jobs::upload::answer(bigquery, request)
        .await
        .unwrap_or_else(|status| error::answer(&status))
}

/// Returns true if a parameter is set. Some clients write `True`.
fn is_true(parameters: &HashMap<String, String>, name: &str) -> bool {
    parameters.get(name).is_some_and(|value| value.eq_ignore_ascii_case("true"))
}

async fn route(bigquery: &BigQuery, request: Request) -> Result<Value, Status> {
    let (parts, body) = request.into_parts();
    let path = parts.uri.path().trim_start_matches("/bigquery/v2").trim_matches('/').to_owned();
    let words: Vec<String> = path.split('/').map(decode).collect();
    let words: Vec<&str> = words.iter().map(String::as_str).collect();
    let parameters = query(&parts.uri);
    let faults = &bigquery.faults;
    match (&parts.method, words.as_slice()) {
        (method, ["projects", project, "datasets"]) => {
            let body: Map<String, Value> = read_unfiltered(&parameters, body).await?;
            let call = datasets(bigquery, method.clone(), project, body);
            faults.around(&format!("bigquery.datasets.{}", verb(method, true)), call).await
        }
        (method, ["projects", project, "datasets", dataset]) => {
            let name = DatasetName((*project).into(), (*dataset).into());
            let all = is_true(&parameters, "deleteContents");
            let call = dataset_call(bigquery, method.clone(), name, all);
            faults.around(&format!("bigquery.datasets.{}", verb(method, false)), call).await
        }
        (method, ["projects", project, "datasets", dataset, "tables"]) => {
            let name = DatasetName((*project).into(), (*dataset).into());
            let body = read_json(body).await?;
            let call = tables(bigquery, method.clone(), name, body);
            faults.around(&format!("bigquery.tables.{}", verb(method, true)), call).await
        }
        (&Method::POST, ["projects", _, "datasets", _, "tables", table])
            if table.ends_with(":testIamPermissions") =>
        {
            faults.around("bigquery.tables.testIamPermissions", permissions(bigquery, body)).await
        }
        (method, ["projects", project, "datasets", dataset, "tables", table]) => {
            let name = TableName((*project).into(), (*dataset).into(), (*table).into());
            let call = table_call(bigquery, &parts, name, read_json(body).await?);
            faults.around(&format!("bigquery.tables.{}", verb(method, false)), call).await
        }
        (
            &Method::POST,
            ["projects", project, "datasets", dataset, "tables", table, "insertAll"],
        ) => {
            let name = TableName((*project).into(), (*dataset).into(), (*table).into());
            let request = read_rows(&parts.headers, body).await?;
            let call = bigquery.with(move |catalog| catalog.insert_all(&name, request));
            faults.around("bigquery.tabledata.insertAll", call).await
        }
        (&Method::GET, ["projects", project, "datasets", dataset, "tables", table, "data"]) => {
            let name = TableName((*project).into(), (*dataset).into(), (*table).into());
            let page = Page::of(&parameters);
            let call = bigquery.with(move |catalog| catalog.list_rows(&name, &page));
            faults.around("bigquery.tabledata.list", call).await
        }
        (method, ["projects", project, path @ ..])
            if matches!(path.first(), Some(&"jobs" | &"queries")) =>
        {
            let body = read_bytes(body).await?;
            let call = jobs::JobCall { method: method.clone(), parameters, body };
            jobs::answer(bigquery, project, path, call).await
        }
        _ => Err(Status::unimplemented(&format!("{} /bigquery/v2/{path}", parts.method))),
    }
}

/// Reads the body of a call that must have no filter.
async fn read_unfiltered(
    parameters: &HashMap<String, String>,
    body: Body,
) -> Result<Map<String, Value>, Status> {
    if parameters.contains_key("filter") {
        return Err(Status::unimplemented("the filter of bigquery.datasets.list"));
    }
    read_json(body).await
}

/// Returns the requested permissions that are not denied.
async fn permissions(bigquery: &BigQuery, body: Body) -> Result<Value, Status> {
    #[derive(serde::Deserialize)]
    struct TestedPermissions {
        #[serde(default)]
        permissions: Vec<String>,
    }
    let asked: TestedPermissions = read_json(body).await?;
    let profile = bigquery.faults.conditions().profile();
    Ok(json!({ "permissions": rights::granted(&profile.denied, asked.permissions) }))
}

/// Returns the etag that a resource must still have.
fn if_match(headers: &HeaderMap) -> Option<String> {
    Some(headers.get(header::IF_MATCH)?.to_str().ok()?.to_owned())
}

/// Reads the rows of an `insertAll`. Clients often compress them.
async fn read_rows(headers: &HeaderMap, body: Body) -> Result<InsertAll, Status> {
    let body = read_bytes(body).await?;
    let is_gzip = headers.get(header::CONTENT_ENCODING).is_some_and(|coding| coding == "gzip");
    let mut json = Vec::new();
    if is_gzip {
        let mut decoder = GzDecoder::new(&*body).take(MAX_REQUEST_BYTES + 1);
        let read = decoder.read_to_end(&mut json);
        read.map_err(|error| Status::invalid(format!("Invalid gzip: {error}")))?;
    } else {
        json.extend_from_slice(&body);
    }
    if json.len() as u64 > MAX_REQUEST_BYTES {
        return Err(Status::new(
            Code::OutOfRange,
            "Request payload size exceeds the limit: 10485760 bytes.",
        ));
    }
    serde_json::from_slice(&json)
        .map_err(|error| Status::invalid(format!("Invalid JSON payload received: {error}")))
}

/// Returns the name of the method in the API, as faults use it.
fn verb(method: &Method, is_collection: bool) -> &'static str {
    match (method, is_collection) {
        (&Method::GET, true) => "list",
        (&Method::POST, _) => "insert",
        (&Method::GET, false) => "get",
        (&Method::PATCH, _) => "patch",
        (&Method::DELETE, _) => "delete",
        _ => "unknown",
    }
}

async fn datasets(
    bigquery: &BigQuery,
    method: Method,
    project: &str,
    mut body: Map<String, Value>,
) -> Result<Value, Status> {
    let project = project.to_owned();
    match method {
        Method::GET => bigquery.with(move |catalog| catalog.list_datasets(&project)).await,
        Method::POST => {
            let id = body.remove("datasetReference").and_then(|reference| {
                reference.get("datasetId").and_then(Value::as_str).map(str::to_owned)
            });
            let id =
                id.ok_or_else(|| Status::invalid("Required parameter is missing: datasetId"))?;
            let name = DatasetName(project, id);
            bigquery.with(move |catalog| catalog.create_dataset(&name, body)).await
        }
        other => Err(Status::unimplemented(&format!("{other} of datasets"))),
    }
}

async fn dataset_call(
    bigquery: &BigQuery,
    method: Method,
    name: DatasetName,
    all: bool,
) -> Result<Value, Status> {
    match method {
        Method::GET => bigquery.with(move |catalog| catalog.show_dataset(&name)).await,
        Method::DELETE => {
            bigquery.with(move |catalog| catalog.delete_dataset(&name, all)).await?;
            Ok(Value::Null)
        }
        other => Err(Status::unimplemented(&format!("{other} of a dataset"))),
    }
}

async fn tables(
    bigquery: &BigQuery,
    method: Method,
    dataset: DatasetName,
    mut body: Map<String, Value>,
) -> Result<Value, Status> {
    match method {
        Method::GET => bigquery.with(move |catalog| catalog.list_tables(&dataset)).await,
        Method::POST => {
            let id = body.remove("tableReference").and_then(|reference| {
                reference.get("tableId").and_then(Value::as_str).map(str::to_owned)
            });
            let id = id.ok_or_else(|| Status::invalid("Required parameter is missing: tableId"))?;
            let name = TableName(dataset.0, dataset.1, id);
            let schema = schema_of(&mut body)?.unwrap_or_default();
            let create = move |catalog: &mut Catalog| {
                catalog.allow_tags(Some(&schema))?;
                catalog.create_table(&name, schema, body)
            };
            bigquery.with(create).await
        }
        other => Err(Status::unimplemented(&format!("{other} of tables"))),
    }
}

async fn table_call(
    bigquery: &BigQuery,
    request: &Parts,
    name: TableName,
    mut body: Map<String, Value>,
) -> Result<Value, Status> {
    match &request.method {
        &Method::GET => bigquery.with(move |catalog| catalog.show_table(&name)).await,
        &Method::PATCH => {
            let schema = schema_of(&mut body)?;
            body.remove("tableReference");
            let etag = if_match(&request.headers);
            let patch = move |catalog: &mut Catalog| {
                catalog.allow_tags(schema.as_ref())?;
                catalog.patch_table(&name, etag.as_deref(), schema, body)
            };
            bigquery.with(patch).await
        }
        &Method::DELETE => {
            bigquery.with(move |catalog| catalog.delete_table(&name)).await?;
            Ok(Value::Null)
        }
        other => Err(Status::unimplemented(&format!("{other} of a table"))),
    }
}

fn schema_of(body: &mut Map<String, Value>) -> Result<Option<Schema>, Status> {
    match body.remove("schema") {
        None | Some(Value::Null) => Ok(None),
        Some(schema) => serde_json::from_value(schema)
            .map(Some)
            .map_err(|error| Status::invalid(format!("Invalid schema: {error}"))),
    }
}
