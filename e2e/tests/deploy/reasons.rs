//! Reasons: declared once, in the metrics from the start, and named by the documents.

use std::collections::BTreeSet;

use pipeline::{Reason, Reasons};

use crate::{read, root};

/// Reasons of each service.
const SERVICES: [Reasons; 5] = [
    ingestion::REASONS,
    enrich::REASONS,
    bigqueries::REASONS,
    icestore::REASONS,
    postgres::REASONS,
];

/// Lists of all crates that declare reasons, with the folders of the crates.
const DECLARED: [(&str, &[&[Reason]]); 7] = [
    ("shared/pipeline", pipeline::reasons::ALL),
    ("shared/pubsub", pubsub::reasons::ALL),
    ("shared/rows", rows::reasons::ALL),
    ("services/ingestion", ingestion::reasons::ALL),
    ("services/enrich", enrich::reasons::ALL),
    ("services/bigqueries", bigqueries::reasons::ALL),
    ("services/icestore", icestore::reasons::ALL),
];

/// Returns the codes of all declared reasons for which messages leave a stream.
fn declared() -> BTreeSet<&'static str> {
    let lists = DECLARED.iter().flat_map(|(_, lists)| *lists);
    // The dead-letter tool only prints its reasons.
    let lists = lists.filter(|list| **list != pubsub::reasons::REPLAY);
    lists.copied().flatten().map(|reason| reason.as_str()).collect()
}

#[test]
fn every_list_of_reasons_is_compared_here() {
    let mut with_reasons = BTreeSet::new();
    for area in ["shared", "services"] {
        for entry in std::fs::read_dir(root().join(area)).unwrap() {
            let entry = entry.unwrap();
            if entry.path().join("src/reasons.rs").exists() {
                with_reasons.insert(format!("{area}/{}", entry.file_name().to_str().unwrap()));
            }
        }
    }

    assert_eq!(with_reasons, DECLARED.map(|(folder, _)| folder.to_owned()).into());
}

#[test]
fn every_declared_reason_is_one_of_a_service() {
    let of_services = SERVICES.iter().flat_map(|all| all.refused().chain(all.skipped()));
    let of_services: BTreeSet<_> = of_services.map(Reason::as_str).collect();

    assert_eq!(of_services, declared());
}

#[test]
fn no_code_is_declared_twice() {
    let count: usize = DECLARED.iter().flat_map(|(_, lists)| *lists).map(|list| list.len()).sum();

    assert_eq!(count, declared().len() + pubsub::reasons::REPLAY.len());
}

#[test]
fn the_metrics_have_every_reason_from_the_start() {
    for reasons in SERVICES {
        let mut registry = prometheus_client::registry::Registry::default();
        let families = pipeline::metrics::Families::default();
        families.register(&mut registry);
        let _metrics = families.of("p", &reasons);
        let mut text = String::new();
        prometheus_client::encoding::text::encode(&mut text, &registry).unwrap();
        let is_zero = |name: &str, reason: Reason| {
            let labels = format!("pipeline=\"p\",reason=\"{reason}\"");
            let line = format!("dataflow_pipeline_{name}_messages_total{{{labels}}} 0\n");
            assert!(text.contains(&line), "{line} is not in\n{text}");
        };

        reasons.refused().for_each(|reason| is_zero("dead_lettered", reason));
        reasons.refused().for_each(|reason| is_zero("dropped", reason));
        reasons.skipped().for_each(|reason| is_zero("skipped", reason));
    }
}

#[test]
fn the_documents_name_every_reason() {
    let name = |file: &str, reasons: &mut dyn Iterator<Item = Reason>| {
        let text = read(file);
        for reason in reasons {
            assert!(text.contains(&format!("`{reason}`")), "{file} does not name `{reason}`");
        }
    };
    for reasons in SERVICES {
        for file in ["README.md", "docs/operating.md", "docs/runbook.md"] {
            name(file, &mut reasons.refused());
        }
        name("docs/metrics.md", &mut reasons.skipped());
    }
}
