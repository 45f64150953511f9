//! Explanation of one message: shows its row, and needs no server.

use std::sync::Arc;

use message::Message;
use pipeline::{Step, Transform as _};
use rows::Rows as _;
use rows::column::Column;
use rows::json::value;
use serde_json::Map;
use service::tools::explain::{self, Explains, Story};

use crate::batch::Batch;
use crate::config::Settings;
use crate::sink;
use crate::sql_type::SqlType;
use crate::transform::ToRow;

impl Explains for Settings {
    const ABOUT: &'static str =
        "Shows the row that a message becomes, or the column that it does not fit";

    async fn story(&self, message: &Message) -> anyhow::Result<Story> {
        let rows = self.rows();
        let columns: Arc<[Column]> = rows.columns().into();
        let table = self.table.full_name();
        let mut story = Story::new();
        story.insert("table".into(), table.clone().into());
        let transform = ToRow::new(rows, Arc::clone(&columns), table, self.input);
        let outcome = match transform.apply(message).await {
            Ok(Step::Pass(record)) => {
                let types: Vec<_> = columns.iter().map(SqlType::of).collect();
                let bytes = Batch::new(&types).push(&columns, &record.0);
                sink::check(bytes).map(|()| Step::Pass(record))
            }
            other => other,
        };
        explain::end(&mut story, outcome, |story, record| {
            let cells = columns.iter().zip(&record.0);
            let row: Map<_, _> =
                cells.map(|(column, cell)| (column.name.clone(), value(column, cell))).collect();
            story.insert("row".into(), row.into());
        });
        Ok(story)
    }
}

#[cfg(test)]
mod tests {
    use rows::column::Kind;

    use super::*;

    fn settings() -> Settings {
        let mut settings = Settings::default();
        settings.table.name = "readings".into();
        settings.table.columns = vec![Column::new("temperature", Kind::Float64)];
        settings
    }

    #[tokio::test]
    async fn a_row_is_shown_column_by_column() {
        let story = settings().story(&Message::new(r#"{"temperature":21.5,"x":1}"#)).await.unwrap();

        assert_eq!(story["table"], "public.readings");
        assert_eq!(story["row"]["temperature"], 21.5);
        assert!(story["row"]["rest"].as_str().is_some_and(|rest| rest.contains("\"x\":1")));
    }

    #[tokio::test]
    async fn text_that_postgresql_cannot_hold_is_refused_without_a_server() {
        let story = settings().story(&Message::new(r#"{"other":"a\u0000b"}"#)).await.unwrap();

        assert_eq!(story["reason"], "row_type_mismatch");
        assert!(story["detail"].as_str().is_some_and(|detail| detail.contains("column rest")));
    }

    #[tokio::test]
    async fn a_value_that_does_not_fit_is_named() {
        let story = settings().story(&Message::new(r#"{"temperature":"warm"}"#)).await.unwrap();

        assert_eq!(story["reason"], "row_type_mismatch");
        assert!(story["detail"].as_str().is_some_and(|detail| detail.contains("temperature")));
    }
}
