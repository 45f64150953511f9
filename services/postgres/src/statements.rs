//! Statements of a table: they create it, extend it and write rows.

use std::fmt::Write as _;

use postgresql::identifier::quoted;
use rows::column::{Column, Kind, Mode};
use service::WrongSettings;

use crate::config::TableSettings;
use crate::sql_type::SqlType;

/// Column that identifies a message: a second row with the same value is not written.
pub(crate) const KEY: &str = "ingest_id";
/// Column with the time of a message, by which a table is partitioned.
pub(crate) const TIME: &str = "publish_time";

/// Statements for a table with these columns.
#[derive(Debug, Clone)]
pub struct Statements {
    /// Settings of the table.
    pub(crate) table: TableSettings,
    /// Columns of each row.
    pub(crate) columns: Vec<Column>,
    /// Types of the columns, in their order.
    pub(crate) types: Vec<SqlType>,
    /// Statement that writes rows. It has one parameter for each column.
    pub(crate) insert: String,
}

impl Statements {
    /// Creates the statements.
    ///
    /// # Errors
    /// The columns of a custom row type do not identify its rows.
    pub fn new(table: &TableSettings, columns: &[Column]) -> Result<Self, WrongSettings> {
        for (name, kind) in [(KEY, Kind::String), (TIME, Kind::Timestamp)] {
            let fits = |column: &Column| column.kind() == kind && column.mode != Mode::Repeated;
            if !columns.iter().any(|column| column.name == name && fits(column)) {
                let right = format!("the rows need a column {name} of the type {}", kind.name());
                return Err(WrongSettings(right));
            }
        }
        let (table, columns) = (table.clone(), columns.to_vec());
        let types: Vec<_> = columns.iter().map(SqlType::of).collect();
        let insert = insert(&table, &columns, &types);
        Ok(Self { table, columns, types, insert })
    }

    /// Returns the columns that identify a row.
    ///
    /// PostgreSQL enforces a key within each partition only, so the key of a table with partitions
    /// has the time, too. A message in Pub/Sub keeps its time however often it is delivered. A client
    /// that sends it again without a time gives it another one.
    ///
    /// The time is in front then. So the index of the key has the rows in the order of pages, and new
    /// rows are at its end, which makes it cheaper to write.
    pub(crate) fn key(&self) -> &'static [&'static str] {
        key(&self.table)
    }

    /// Returns true if every row has a value of a column, whatever its mode is.
    pub(crate) fn always_has(&self, column: &Column) -> bool {
        // Pages of rows are in the order of the time, so it is never NULL either.
        self.key().contains(&column.name.as_str()) || column.name == TIME
    }

    /// Returns the statement that writes rows. It has an array for each column.
    #[must_use]
    pub fn insert(&self) -> &str {
        &self.insert
    }

    /// Returns the statements that create the table with its indexes.
    #[must_use]
    pub fn create(&self) -> Vec<String> {
        let name = self.table.quoted();
        let columns = self.columns.iter().zip(&self.types).map(|(column, sql_type)| {
            format!("  {}", definition(column, sql_type, self.always_has(column)))
        });
        let key = format!("  PRIMARY KEY ({})", list(self.key()));
        let lines: Vec<_> = columns.chain([key]).collect();
        let partitions = match self.table.partition_by_day {
            Some(_) => format!(" PARTITION BY RANGE ({})", quoted(TIME)),
            None => String::new(),
        };
        let mut statements =
            vec![format!("CREATE TABLE {name} (\n{}\n){partitions}", lines.join(",\n"))];
        match self.table.partition_by_day {
            // The index of the key begins with the time.
            Some(_) => {}
            None if self.table.time_index => {
                statements.push(format!("CREATE INDEX ON {name} ({})", list(&[TIME, KEY])));
            }
            // Rows arrive about in the order of their times, so a small BRIN index finds a span of time.
            None => {
                statements.push(format!("CREATE INDEX ON {name} USING brin ({})", quoted(TIME)));
            }
        }
        if let Some(source) = &self.table.source_column {
            statements.push(format!("CREATE INDEX ON {name} ({})", list(&[source, TIME, KEY])));
        }
        if self.table.partition_by_day.is_some() {
            // The partitions of days follow while the service runs.
            let default = self.table.default_partition();
            statements.push(format!("CREATE TABLE {default} PARTITION OF {name} DEFAULT"));
        }
        statements
    }

    /// Returns the statement that adds a column.
    #[must_use]
    pub(crate) fn add(&self, column: &Column, sql_type: &SqlType) -> String {
        let definition = definition(column, sql_type, false);
        format!("ALTER TABLE {} ADD COLUMN {definition}", self.table.quoted())
    }
}

fn key(table: &TableSettings) -> &'static [&'static str] {
    if table.partition_by_day.is_some() { &[TIME, KEY] } else { &[KEY] }
}

fn definition(column: &Column, sql_type: &SqlType, is_key: bool) -> String {
    let mut text = format!("{} {}", quoted(&column.name), sql_type.name);
    if column.name == KEY {
        // Ids are in the order of their bytes, as in every other store.
        text.push_str(" COLLATE \"C\"");
    }
    if is_key || column.mode == Mode::Required {
        text.push_str(" NOT NULL");
    }
    text
}

fn list(names: &[impl AsRef<str>]) -> String {
    let names: Vec<_> = names.iter().map(|name| quoted(name.as_ref())).collect();
    names.join(", ")
}

/// Returns the one statement that writes rows: an array for each column becomes a row set. Rows whose
/// key exists are left out.
fn insert(table: &TableSettings, columns: &[Column], types: &[SqlType]) -> String {
    let names: Vec<_> = columns.iter().map(|column| column.name.as_str()).collect();
    let (mut values, mut arrays, mut aliases) = (String::new(), String::new(), String::new());
    for (index, sql_type) in types.iter().enumerate() {
        let comma = if index > 0 { ", " } else { "" };
        let cast = sql_type.cast.as_ref().map(|cast| format!("::{cast}")).unwrap_or_default();
        let parameter = sql_type.parameter.name();
        // Writing to a text cannot fail.
        let _ = write!(values, "{comma}v.c{index}{cast}");
        let _ = write!(arrays, "{comma}${}::{parameter}[]", index + 1);
        let _ = write!(aliases, "{comma}c{index}");
    }
    let key = list(key(table));
    format!(
        "INSERT INTO {} ({}) SELECT {values} FROM unnest({arrays}) AS v({aliases}) \
         ON CONFLICT ({key}) DO NOTHING",
        table.quoted(),
        list(&names),
    )
}

/// Returns the statement that converts the values of one column and does not write them.
pub(crate) fn convert(sql_type: &SqlType) -> String {
    let cast = sql_type.cast.as_ref().map(|cast| format!("::{cast}")).unwrap_or_default();
    let (parameter, name) = (sql_type.parameter.name(), &sql_type.name);
    // The outer cast checks a number against the digits of its column.
    format!("SELECT count((v.c{cast})::{name}) FROM unnest($1::{parameter}[]) AS v(c)")
}

#[cfg(test)]
mod tests {
    use rows::Rows as _;

    use super::*;
    use crate::config::{DayPartitions, Settings};

    fn statements(settings: &Settings) -> Statements {
        Statements::new(&settings.table, &settings.rows().columns()).unwrap()
    }

    fn settings() -> Settings {
        let mut settings = Settings::default();
        settings.table.name = "readings".into();
        settings.table.columns = vec![
            Column::new("device_id", Kind::String).with_mode(Mode::Required),
            Column::new("price", Kind::Numeric),
        ];
        settings
    }

    #[test]
    fn the_table_has_the_id_of_a_message_as_its_key() {
        let mut settings = settings();
        settings.table.source_column = Some("device_id".into());

        let create = statements(&settings).create();

        assert_eq!(
            create,
            [
                "CREATE TABLE \"public\".\"readings\" (\n  \"message_id\" text,\n  \"publish_time\" timestamp \
                 with time zone NOT NULL,\n  \"ingest_id\" text COLLATE \"C\" NOT NULL,\n  \"device_id\" text NOT NULL,\n  \
                 \"price\" numeric(38,9),\n  \"rest\" jsonb,\n  PRIMARY KEY (\"ingest_id\")\n)",
                "CREATE INDEX ON \"public\".\"readings\" (\"publish_time\", \"ingest_id\")",
                "CREATE INDEX ON \"public\".\"readings\" (\"device_id\", \"publish_time\", \"ingest_id\")",
            ]
        );
    }

    #[test]
    fn a_table_without_an_index_on_the_time_has_a_small_one() {
        let mut settings = settings();
        settings.table.time_index = false;

        let create = statements(&settings).create();

        let brin = "CREATE INDEX ON \"public\".\"readings\" USING brin (\"publish_time\")";
        assert_eq!(create[1..], [brin]);
    }

    #[test]
    fn rows_whose_key_exists_are_left_out() {
        let insert = statements(&settings()).insert;

        assert_eq!(
            insert,
            "INSERT INTO \"public\".\"readings\" (\"message_id\", \"publish_time\", \"ingest_id\", \"device_id\", \
             \"price\", \"rest\") SELECT v.c0, v.c1, v.c2, v.c3, v.c4::numeric, v.c5 FROM \
             unnest($1::text[], $2::timestamptz[], $3::text[], $4::text[], $5::text[], $6::jsonb[]) AS \
             v(c0, c1, c2, c3, c4, c5) ON CONFLICT (\"ingest_id\") DO NOTHING"
        );
    }

    #[test]
    fn the_key_of_a_table_with_partitions_has_the_time() {
        let mut settings = settings();
        settings.table.partition_by_day = Some(DayPartitions::default());

        let statements = statements(&settings);

        assert!(statements.insert.ends_with("(\"publish_time\", \"ingest_id\") DO NOTHING"));
        let create = statements.create();
        assert!(create[0].contains("PRIMARY KEY (\"publish_time\", \"ingest_id\")"), "{create:?}");
        assert!(create[0].ends_with("PARTITION BY RANGE (\"publish_time\")"), "{create:?}");
        assert!(create[1].ends_with("DEFAULT"), "{create:?}");
    }

    #[test]
    fn a_row_type_without_the_key_is_refused() {
        let columns = [Column::new(TIME, Kind::Timestamp), Column::new(KEY, Kind::Int64)];

        let refused = Statements::new(&settings().table, &columns).unwrap_err();

        assert!(refused.0.contains("ingest_id of the type STRING"), "{refused}");
    }
}
