//! Load jobs: JSON lines and CSV, from objects or from the request.

use std::io::Read as _;

use bytes::Bytes;
use flate2::read::MultiGzDecoder;
use rusqlite::types::Value as Sql;
use serde::Deserialize;
use serde_json::{Map, Value, json};
use time::OffsetDateTime;
use tonic::Code;

use super::query::JobRequest;
use super::{Job, csv, detect};
use crate::bigquery::catalog::Catalog;
use crate::bigquery::destination::{
    CreateDisposition, Destination, Properties, Reference, WriteDisposition,
};
use crate::bigquery::rows::to_json;
use crate::bigquery::schema::Schema;
use crate::bigquery::transaction::DryRun;
use crate::bigquery::value;
use crate::status::Status;
use crate::storage::Storage;

/// Largest object after its decompression.
const MAX_BYTES: u64 = 1024 * 1024 * 1024;
/// Most errors that a job reports.
const MAX_FAULTS: usize = 100;

/// Configuration of a load job.
#[derive(Debug, Clone, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(in crate::bigquery) struct Load {
    #[serde(default)]
    source_uris: Vec<String>,
    destination_table: Reference,
    #[serde(default)]
    schema: Option<Schema>,
    #[serde(default)]
    source_format: Option<String>,
    #[serde(default)]
    autodetect: bool,
    #[serde(default)]
    max_bad_records: usize,
    #[serde(default)]
    ignore_unknown_values: bool,
    #[serde(default)]
    write_disposition: Option<WriteDisposition>,
    #[serde(default)]
    create_disposition: Option<CreateDisposition>,
    #[serde(flatten)]
    properties: Properties,
    #[serde(flatten)]
    csv: csv::CsvFormat,
}

/// Options that Google knows and this emulator does not.
const REFUSED: [&str; 17] = [
    "connectionProperties",
    "copyFilesOnly",
    "dateFormat",
    "datetimeFormat",
    "decimalTargetTypes",
    "destinationEncryptionConfiguration",
    "destinationTableProperties",
    "fileSetSpecType",
    "nullMarkers",
    "parquetOptions",
    "projectionFields",
    "referenceFileSchemaUri",
    "schemaInline",
    "timeFormat",
    "timeZone",
    "timestampFormat",
    "useAvroLogicalTypes",
];

/// Checks that no option of a load is left out silently.
fn check_options(load: &Value) -> Result<(), Status> {
    let is_given = |name: &&&str| match &load[**name] {
        Value::Null | Value::Bool(false) => false,
        Value::Array(items) => !items.is_empty(),
        Value::Object(options) => !options.is_empty(),
        _ => true,
    };
    match REFUSED.iter().find(is_given) {
        Some(name) => Err(Status::unimplemented(&format!("load jobs with {name}"))),
        None => Ok(()),
    }
}

/// Source of the rows of a load.
pub(in crate::bigquery) enum LoadedData {
    Uploaded(Bytes),
    /// Objects with their names, or the error of reading them.
    Objects(Result<Vec<(String, Bytes)>, Status>),
}

/// Rows that were read, and the errors of other rows.
#[derive(Default)]
struct Read {
    rows: Vec<Vec<Sql>>,
    faults: Vec<Value>,
    bad: usize,
    bytes: usize,
    files: usize,
}

impl Load {
    /// Reads all objects that the URIs name.
    pub(in crate::bigquery) fn objects(
        &self,
        storage: &Storage,
    ) -> Result<Vec<(String, Bytes)>, Status> {
        let mut objects = Vec::new();
        for uri in &self.source_uris {
            let name = uri.strip_prefix("gs://").and_then(|name| name.split_once('/'));
            let (bucket, pattern) = name.ok_or_else(|| {
                Status::invalid(format!(
                    "Source URI must be a Google Cloud Storage location: {uri}"
                ))
            })?;
            let found = storage.contents(bucket, pattern)?;
            if found.is_empty() {
                return Err(Status::new(Code::NotFound, format!("Not found: URI {uri}")));
            }
            objects.extend(
                found.into_iter().map(|(name, body)| (format!("gs://{bucket}/{name}"), body)),
            );
        }
        Ok(objects)
    }

    fn format(&self) -> Result<Format, Status> {
        match self.source_format.as_deref().unwrap_or("CSV") {
            "CSV" => Ok(Format::Csv),
            "NEWLINE_DELIMITED_JSON" => Ok(Format::Json),
            other => Err(Status::unimplemented(&format!("load jobs of format {other}"))),
        }
    }

    /// Reads the rows of files. Missing values get the defaults of columns that the schema has.
    fn read(
        &self,
        format: Format,
        files: &[(String, Bytes)],
        schema: &Schema,
        defaults: &Schema,
    ) -> Read {
        let defaults = defaults.fields.iter().filter(|field| schema.find(&field.name).is_some());
        let mut read = Read { files: files.len(), ..Read::default() };
        for (file, body) in files {
            read.bytes += body.len();
            for (index, row) in self.rows(format, body, schema).into_iter().enumerate() {
                let stored = row.and_then(|mut row| {
                    value::default::fill(defaults.clone(), &mut row)?;
                    value::store_row(&schema.fields, &row, self.ignore_unknown_values)
                        .map_err(|fault| fault.message)
                });
                match stored {
                    Ok(row) => read.rows.push(row),
                    Err(why) => read.refuse(file, index + 1, &why),
                }
            }
        }
        read
    }

    /// Returns the rows of a file as JSON in their order, or the error of each.
    fn rows(
        &self,
        format: Format,
        body: &[u8],
        schema: &Schema,
    ) -> Vec<Result<Map<String, Value>, String>> {
        match format {
            Format::Json => json_lines(body).collect(),
            Format::Csv => self.csv.rows(body, &schema.fields, self.ignore_unknown_values),
        }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Format {
    Csv,
    Json,
}

impl Catalog {
    /// Runs a load to its end and remembers the job.
    ///
    /// # Errors
    /// Fails for features that this emulator does not support, and names them. Such a job is not
    /// created.
    pub(in crate::bigquery) fn run_load(
        &mut self,
        load: &Load,
        data: LoadedData,
        mut asked: JobRequest,
    ) -> Result<Job, Status> {
        self.jobs.check_new(&asked.name)?;
        let started = OffsetDateTime::now_utc();
        let format = load.format()?;
        load.csv.check(format == Format::Csv)?;
        check_options(&asked.configuration["load"])?;
        if asked.dry_run == DryRun::Yes {
            return Err(Status::unimplemented("dryRun of load jobs"));
        }
        asked.configuration["jobType"] = "LOAD".into();
        let done = match data {
            LoadedData::Uploaded(body) => {
                self.load(load, format, vec![(String::new(), body)], &asked)
            }
            LoadedData::Objects(objects) => {
                objects.and_then(|objects| self.load(load, format, objects, &asked))
            }
        };
        let mut job = Job {
            name: asked.name,
            location: asked.location,
            configuration: asked.configuration,
            started,
            ended: OffsetDateTime::now_utc(),
            statistics: Map::new(),
            error: None,
            warnings: Vec::new(),
            result: None,
        };
        match done {
            Ok(read) => {
                job.statistics.insert("load".into(), statistics(&read));
                if read.bad > load.max_bad_records {
                    job.error = Some(too_many(&read));
                }
                job.warnings = read.faults;
            }
            Err(status) if status.code == Code::Unimplemented => return Err(status),
            Err(status) => job.error = Some(status),
        }
        self.jobs.add(job.clone());
        Ok(job)
    }

    fn load(
        &mut self,
        load: &Load,
        format: Format,
        files: Vec<(String, Bytes)>,
        asked: &JobRequest,
    ) -> Result<Read, Status> {
        let destination = Destination {
            table: load.destination_table.name(&asked.name.0),
            write: load.write_disposition.unwrap_or(WriteDisposition::Append),
            create: load.create_disposition.unwrap_or_default(),
            resource: load.properties.resource()?,
        };
        let files = files.into_iter().map(|(name, body)| Ok((name, decompressed(&body)?)));
        let files: Vec<(String, Bytes)> = files.collect::<Result<_, Status>>()?;
        let (mut load, mut given) = (load.clone(), load.schema.clone());
        self.allow_tags(given.as_ref())?;
        let existing = self.tables().get(&destination.table).map(|table| table.schema.clone());
        let keeps = destination.write != WriteDisposition::Truncate;
        if given.is_none() && !(keeps && existing.is_some()) && load.autodetect {
            let bodies = files.iter().map(|(_, body)| body.as_ref());
            given = Some(match format {
                Format::Json => detect::json(bodies.flat_map(json_lines).filter_map(Result::ok)),
                Format::Csv => detect::csv(&mut load.csv, bodies.take(1))?,
            });
        }
        let fields = given.as_ref().or(existing.as_ref());
        let schema =
            fields.ok_or_else(|| Status::invalid("No schema specified on job or table."))?;
        // The defaults of an existing table apply. A new table takes them from the given schema.
        let defaults = existing.as_ref().filter(|_| keeps).unwrap_or(schema);
        let mut read = load.read(format, &files, schema, defaults);
        if read.bad > load.max_bad_records {
            return Ok(read);
        }
        let rows = std::mem::take(&mut read.rows);
        let count = rows.len();
        self.atomically(&destination.table, |catalog| {
            let table = catalog.prepare(&destination, given.as_ref())?;
            let fits = table.fields == schema.fields;
            let rows = if fits { rows } else { arranged(&table, schema, &rows)? };
            catalog.insert(&destination.table, rows)
        })?;
        read.rows = vec![Vec::new(); count];
        Ok(read)
    }
}

impl Read {
    fn refuse(&mut self, file: &str, row: usize, why: &str) {
        self.bad += 1;
        if self.faults.len() < MAX_FAULTS {
            let of_file = if file.is_empty() { String::new() } else { format!("; File: {file}") };
            let message =
                format!("Error while reading data, error message: {why}; Row: {row}{of_file}");
            self.faults.push(json!({ "reason": "invalid", "location": file, "message": message }));
        }
    }
}

/// Rearranges rows of one schema into the order of another.
fn arranged(table: &Schema, schema: &Schema, rows: &[Vec<Sql>]) -> Result<Vec<Vec<Sql>>, Status> {
    let rows = rows.iter().map(|row| {
        let cells = schema.fields.iter().zip(row);
        let cells = cells.map(|(field, stored)| (field.name.clone(), to_json(field, stored)));
        let mut row = cells.collect();
        value::default::fill(&table.fields, &mut row).map_err(|why| Status::unimplemented(&why))?;
        value::store_row(&table.fields, &row, false).map_err(|fault| Status::invalid(fault.message))
    });
    rows.collect()
}

fn statistics(read: &Read) -> Value {
    json!({
        "inputFiles": read.files.to_string(),
        "inputFileBytes": read.bytes.to_string(),
        "outputRows": read.rows.len().to_string(),
        "outputBytes": read.bytes.to_string(),
        "badRecords": read.bad.to_string(),
    })
}

fn too_many(read: &Read) -> Status {
    let (rows, errors) = (read.rows.len() + read.bad, read.bad);
    Status::invalid(format!(
        "Error while reading data, error message: Too many errors encountered, giving up. \
         Rows: {rows}; errors: {errors}. Please look into the errors[] collection for more details."
    ))
}

/// Parses a body with one JSON object in each line.
fn json_lines(body: &[u8]) -> impl Iterator<Item = Result<Map<String, Value>, String>> {
    let lines = body.split(|byte| *byte == b'\n');
    let lines = lines.filter(|line| !line.trim_ascii().is_empty());
    lines.map(|line| {
        serde_json::from_slice(line).map_err(|error| format!("Failed to parse JSON: {error}"))
    })
}

/// Returns the content of a file, decompressed if it is gzip.
fn decompressed(body: &Bytes) -> Result<Bytes, Status> {
    if !body.starts_with(&[0x1f, 0x8b]) {
        return Ok(body.clone());
    }
    let mut content = Vec::new();
    let read = MultiGzDecoder::new(body.as_ref()).take(MAX_BYTES + 1).read_to_end(&mut content);
    read.map_err(|error| Status::invalid(format!("Error while reading data: {error}")))?;
    if content.len() as u64 > MAX_BYTES {
        return Err(Status::invalid("Error while reading data: more than 1 GiB in one file"));
    }
    Ok(content.into())
}
