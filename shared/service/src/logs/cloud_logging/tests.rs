use serde_json::Value;
use tracing::{debug, error, info, warn};

use super::super::buffer::Buffer;
use super::*;

/// Returns names that a process has for its whole life.
fn names(service: Option<&'static str>, project: Option<&str>) -> &'static Names {
    let names = Names::default();
    if let Some(service) = service {
        names.service.set(service).unwrap();
    }
    if let Some(project) = project {
        names.project.set(project.to_owned()).unwrap();
    }
    Box::leak(Box::new(names))
}

/// Returns the lines that `log` writes, as Cloud Logging receives them.
fn logged(names: &'static Names, log: impl FnOnce()) -> Vec<String> {
    let buffer = Buffer::default();
    let writer = buffer.clone();
    let subscriber = tracing_subscriber::fmt()
        .with_max_level(Level::DEBUG)
        .with_writer(move || writer.clone())
        .event_format(CloudLogging { names });
    tracing::subscriber::with_default(subscriber.finish(), log);
    buffer.lines()
}

/// Returns a line with `T` in the place of its time, which must be one.
fn without_time(line: &str) -> String {
    let (before, rest) = line.split_once("\"time\":\"").unwrap();
    let (time, after) = rest.split_once('"').unwrap();
    assert!(OffsetDateTime::parse(time, &Rfc3339).is_ok(), "{time}");
    format!("{before}\"time\":\"T\"{after}")
}

#[test]
fn a_line_about_a_message_is_what_cloud_logging_reads_byte_for_byte() {
    let trace = "4bf92f3577b34da6a3ce929d0e0e4736";
    let log = || {
        warn!(
            target: "pipeline::write::dead_lettering",
            service = "enrich",
            subscription = "raw-enrich",
            topic = "devices/d1/up",
            message_id = "7",
            ingest_id = "i-1",
            trace,
            span_id = "00f067aa0ba902b7",
            trace_sampled = true,
            reason = "no_route",
            "a message can never succeed"
        );
    };

    let in_project = logged(names(Some("other"), Some("p")), log);
    let nowhere = logged(names(None, None), log);

    assert_eq!(
        without_time(&in_project[0]),
        "{\"severity\":\"WARNING\",\"time\":\"T\",\"component\":\"pipeline\",\
         \"target\":\"pipeline::write::dead_lettering\",\"message\":\"a message can never succeed\",\
         \"service\":\"enrich\",\"subscription\":\"raw-enrich\",\"topic\":\"devices/d1/up\",\
         \"message_id\":\"7\",\"ingest_id\":\"i-1\",\
         \"logging.googleapis.com/trace\":\"projects/p/traces/4bf92f3577b34da6a3ce929d0e0e4736\",\
         \"logging.googleapis.com/spanId\":\"00f067aa0ba902b7\",\
         \"logging.googleapis.com/trace_sampled\":true,\"reason\":\"no_route\"}"
    );
    let end = "\"trace\":\"4bf92f3577b34da6a3ce929d0e0e4736\",\"span_id\":\"00f067aa0ba902b7\",\
               \"trace_sampled\":true,\"reason\":\"no_route\"}";
    assert!(nowhere[0].ends_with(end), "{}", nowhere[0]);
}

#[test]
fn numbers_stay_numbers_and_texts_are_escaped_byte_for_byte() {
    let error = std::io::Error::other("two\nlines");

    let lines = logged(names(Some("bigqueries"), None), || {
        let (rows, late, share, huge) = (3_usize, -2_i64, 0.25, u128::MAX);
        info!(
            target: "bigqueries",
            rows, late, share, huge, nothing = f64::NAN, is_new = true, %error, "rows \"failed\""
        );
    });

    assert_eq!(
        without_time(&lines[0]),
        "{\"severity\":\"INFO\",\"time\":\"T\",\"service\":\"bigqueries\",\"component\":\"bigqueries\",\
         \"target\":\"bigqueries\",\"message\":\"rows \\\"failed\\\"\",\"rows\":3,\"late\":-2,\
         \"share\":0.25,\"huge\":340282366920938463463374607431768211455,\"nothing\":null,\
         \"is_new\":true,\"error\":\"two\\nlines\"}"
    );
}

#[test]
fn a_field_cannot_take_the_place_of_our_own() {
    let lines = logged(names(Some("icestore"), None), || {
        info!(severity = 1, time = 2, target = 3, component = 4, "");
    });

    let line: Value = serde_json::from_str(&lines[0]).unwrap();
    assert_eq!(line["severity"], "INFO");
    assert_eq!(line["event_severity"], 1);
    assert_eq!((&line["event_time"], &line["event_target"]), (&2.into(), &3.into()));
    assert_eq!((&line["component"], &line["event_component"]), (&"service".into(), &4.into()));
    assert_eq!(line["service"], "icestore");
}

#[test]
fn every_level_has_its_severity() {
    let lines = logged(names(None, None), || {
        error!("a");
        warn!("b");
        info!("c");
        debug!("d");
    });

    for (line, severity) in lines.iter().zip(["ERROR", "WARNING", "INFO", "DEBUG"]) {
        assert!(line.starts_with(&format!("{{\"severity\":\"{severity}\",")), "{line}");
    }
    assert_eq!(lines.len(), 4);
}

#[test]
fn lost_lines_are_told_in_the_same_form() {
    let line = warning("service::logs", "log lines were lost", 7);

    assert_eq!(
        without_time(&line),
        "{\"severity\":\"WARNING\",\"time\":\"T\",\"component\":\"service\",\"target\":\"service::logs\",\
         \"message\":\"log lines were lost\",\"lines\":7}"
    );
}
