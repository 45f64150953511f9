//! Explanation of one message: shows its row, and needs no table.

use message::Message;
use pipeline::{Step, Transform as _};
use serde_json::Map;
use service::tools::explain::{self, Explains, Story};

use crate::config::Settings;
use crate::sink;
use crate::transform::ToRow;
use rows::Rows as _;
use rows::column::Column;
use rows::json::value;

impl Explains for Settings {
    const ABOUT: &'static str =
        "Shows the row that a message becomes, or the column that it does not fit";

    async fn story(&self, message: &Message) -> anyhow::Result<Story> {
        let rows = self.rows();
        let columns: std::sync::Arc<[Column]> = rows.columns().into();
        let table = self.table_name();
        let mut story = Story::new();
        story.insert("table".into(), table.to_string().into());
        let transform = ToRow::new(rows, std::sync::Arc::clone(&columns), table, self.input)
            .written_with(self.write);
        let outcome = match transform.apply(message).await {
            Ok(Step::Pass(record)) => {
                sink::check(&columns, &record, self.write).map(|_fits| Step::Pass(record))
            }
            other => other,
        };
        explain::end(&mut story, outcome, |story, record| {
            let cells = columns.iter().zip(&record.cells);
            let row: Map<_, _> =
                cells.map(|(column, cell)| (column.name.clone(), value(column, cell))).collect();
            story.insert("row".into(), row.into());
            story.insert("insert_id".into(), record.insert_id.into());
        });
        Ok(story)
    }
}

#[cfg(test)]
mod tests {
    use message::FieldPath;

    use super::*;
    use rows::column::Kind;

    fn settings() -> Settings {
        let mut settings = Settings::default();
        settings.process.project = "p".into();
        (settings.table.dataset, settings.table.id) = ("d".into(), "t".into());
        let device = Column::new("device_id", Kind::String);
        let from = Some(FieldPath::Attribute("device_id".into()));
        settings.table.columns =
            vec![Column { from, ..device }, Column::new("temperature", Kind::Float64)];
        settings
    }

    #[tokio::test]
    async fn a_row_is_shown_column_by_column() {
        let message =
            Message::new(r#"{"temperature":21.5,"x":1}"#).with_attribute("device_id", "abc");

        let story = settings().story(&message).await.unwrap();

        assert_eq!(story["table"], "p.d.t");
        assert_eq!(story["row"]["device_id"], "abc");
        assert_eq!(story["row"]["temperature"], 21.5);
        assert!(story["row"]["rest"].as_str().is_some_and(|rest| rest.contains("\"x\":1")));
    }

    #[tokio::test]
    async fn a_row_that_is_too_large_for_a_request_is_refused() {
        let large = format!(r#"{{"x":"{}"}}"#, "x".repeat(9_000_000));

        let story = settings().story(&Message::new(large)).await.unwrap();

        assert_eq!(story["reason"], "row_too_large");
    }

    #[tokio::test]
    async fn a_value_that_does_not_fit_is_named() {
        let story = settings().story(&Message::new(r#"{"temperature":"warm"}"#)).await.unwrap();

        assert_eq!(story["reason"], "row_type_mismatch");
        let detail = story["detail"].as_str().unwrap();
        assert!(detail.contains("column temperature"), "{detail}");
        assert!(!detail.contains("message"), "it has no id: {detail}");
    }
}
