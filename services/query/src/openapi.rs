//! Description of the API for programs, in OpenAPI 3.1.

use serde_json::{Value, json};

/// Returns the document.
pub(crate) fn document() -> Value {
    let problem = |description: &str| {
        json!({
            "description": description,
            "content": { "application/problem+json": { "schema": { "$ref": "#/components/schemas/Problem" } } },
        })
    };
    let parameter = |name: &str, description: &str, schema: Value| json!({ "name": name, "in": "query", "required": false, "description": description, "schema": schema });
    let time = || json!({ "type": "string", "format": "date-time" });
    let row = json!({ "type": "object", "additionalProperties": true });
    let next = json!({ "description": "Token of the next page.", "schema": { "type": "string" } });
    json!({
        "openapi": "3.1.0",
        "info": { "title": "dataflow query", "version": env!("CARGO_PKG_VERSION") },
        "paths": { "/data": { "get": {
            "operationId": "data",
            "summary": "Returns rows in the order of their time and ingest_id",
            "parameters": [
                parameter("source_id", "Source of the rows", json!({ "type": "string", "minLength": 1, "pattern": "^[^\\x00]+$" })),
                parameter("start_time", "First moment", time()),
                parameter("end_time", "Moment after the last one", time()),
                parameter("limit", "Most rows", json!({ "type": "integer", "minimum": 1, "maximum": 10_000, "default": 100 })),
                parameter("offset", "Rows to leave out; not together with next", json!({ "type": "integer", "minimum": 0, "maximum": 1_000_000, "default": 0 })),
                parameter("next", "Token of an earlier answer", json!({ "type": "string" })),
                parameter("format", "Form of the answer; by default the header Accept decides", json!({ "enum": ["json", "ndjson", "csv"] })),
            ],
            "responses": {
                "200": {
                    "description": "Rows",
                    "headers": { "x-next": next },
                    "content": {
                        "application/json": { "schema": {
                            "type": "object",
                            "required": ["data", "next"],
                            "properties": {
                                "data": { "type": "array", "items": row },
                                "next": { "type": ["string", "null"] },
                            },
                        } },
                        "application/x-ndjson": {},
                        "text/csv": {},
                    },
                },
                "400": problem("A parameter is wrong; `field` names it"),
                "401": problem("Credentials are missing or wrong"),
                "403": problem("The scope `read` is missing"),
                    "429": problem("The caller is too fast; `Retry-After` says when to ask again"),
                "503": problem("The database is away, or the query took too long; ask again"),
            },
        } } },
        "components": { "schemas": { "Problem": problem_schema() } },
    })
}

/// Returns the form of errors.
fn problem_schema() -> Value {
    json!({
        "type": "object",
        "required": ["type", "title", "status", "detail"],
        "properties": {
            "type": { "type": "string" },
            "title": { "type": "string" },
            "status": { "type": "integer" },
            "detail": { "type": "string" },
            "field": { "type": "string" },
        },
    })
}
