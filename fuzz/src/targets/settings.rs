//! Settings of all services: YAML with variables.

use std::io::Write as _;

use service::Settings;
use service::settings::{load, to_value};
use tempfile::NamedTempFile;

use super::{Target, require};

pub(super) const TARGET: Target = Target {
    name: "settings",
    corpus: &[
        include_bytes!("../../../services/ingestion/example.yaml"),
        include_bytes!("../../../services/enrich/example.yaml"),
        include_bytes!("../../../services/bigqueries/example.yaml"),
        include_bytes!("../../../services/icestore/example.yaml"),
        include_bytes!("../../../services/postgres/example.yaml"),
        include_bytes!("../../corpus/settings/variables.yaml"),
    ],
    dictionary: &[
        ": ",
        "- ",
        "\n",
        "  ",
        "{",
        "}",
        "[",
        "]",
        "#",
        "'",
        "\"",
        "&a ",
        "*a",
        "!!int ",
        "|\n",
        "null",
        "~",
        "true",
        "0x10",
        ".inf",
        "1s",
        "10000years",
        "18446744073709551615s",
        "1ns",
        "\n%VARIABLES\n",
        "DATAFLOW__MQTT__URL=",
        "PORT=",
        "DATAFLOW__A__",
        "<<: *a",
    ],
    weight: 30,
    check,
};

/// Checks that accepted settings can be written out again, and that a refusal has a reason.
fn check(input: &[u8]) -> Result<(), String> {
    let text = String::from_utf8_lossy(input);
    let (yaml, variables) = text.split_once("\n%VARIABLES\n").unwrap_or((&text, ""));
    let variables: Vec<_> = variables
        .lines()
        .filter_map(|line| line.split_once('='))
        .map(|(name, value)| (name.to_owned(), value.to_owned()))
        .collect();
    let mut file = NamedTempFile::new().map_err(|error| error.to_string())?;
    file.write_all(yaml.as_bytes()).map_err(|error| error.to_string())?;
    one::<ingestion::config::Settings>(&file, &variables)?;
    one::<enrich::config::Settings>(&file, &variables)?;
    one::<bigqueries::config::Settings>(&file, &variables)?;
    one::<icestore::config::Settings>(&file, &variables)?;
    one::<postgres::config::Settings>(&file, &variables)
}

fn one<T: Settings>(file: &NamedTempFile, variables: &[(String, String)]) -> Result<(), String> {
    match load::<T>(Some(file.path()), variables.to_vec()) {
        Ok(settings) => {
            let _said = settings.explain().map_err(|wrong| wrong.to_string())?;
            let written = to_value(&settings).map_err(|error| error.to_string())?;
            require(written.is_object(), || "nothing is written".into())
        }
        Err(faults) => require(!faults.lines().is_empty(), || "refused without a word".into()),
    }
}
