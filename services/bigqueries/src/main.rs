//! The binary: `bigqueries --config FILE`, and `bigqueries view`, which prints the view's query.

use std::process::ExitCode;

use bigqueries::rows::Rows as _;
use bigqueries::{Bigqueries, config::Settings, view};
use service::Action;

const VIEW: Action<Settings> = Action {
    name: "view",
    about: "Prints the query of the view without duplicates",
    act: |settings| {
        Box::pin(async move {
            println!("{}", view::query(&settings.table_name(), &settings.rows().columns()));
            Ok(())
        })
    },
};

fn main() -> ExitCode {
    let about = "Writes Pub/Sub messages into rows of a BigQuery table";
    service::run_with(about, &[VIEW], |settings: Settings| Bigqueries::new(settings))
}
