//! Runs one SQL statement.

use serde_json::Map;

use super::catalog::Catalog;
use super::names::{DatasetName, TableName};
use super::rows::Rows;
use super::schema::{Field, Mode, Schema, kind_named, new_field};
use super::sql::Scope;
use super::sql::lex::{Lexeme, syntax};
use super::sql::source::{closing, split};
use super::transaction::DryRun;
use crate::status::Status;

/// A statement with the context of its names.
#[derive(Clone, Copy)]
pub(super) struct Statement<'a> {
    pub query: &'a str,
    pub tokens: &'a [Lexeme],
    pub project: &'a str,
    /// Project and dataset of tables without a qualified name.
    pub dataset: Option<(&'a str, &'a str)>,
}

/// Numbers of rows that a statement changed.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Counts {
    pub inserted: usize,
    pub updated: usize,
    pub deleted: usize,
}

/// Result of a statement.
#[derive(Debug, Default)]
pub(super) struct Outcome {
    /// Kind of statement in the statistics of a job, such as `SELECT` or `INSERT`.
    pub statement: &'static str,
    pub rows: Rows,
    /// Numbers of changed rows.
    pub counts: Option<Counts>,
    /// DDL operation and its table.
    pub made: Option<(&'static str, TableName)>,
}

/// Kind of object behind the name of a table.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Relation {
    Table,
    View,
}

impl Counts {
    pub(super) fn all(&self) -> usize {
        self.inserted + self.updated + self.deleted
    }
}

impl<'a> Statement<'a> {
    pub(super) fn scope(&self, catalog: &'a Catalog) -> Scope<'a> {
        Scope { project: self.project, dataset: self.dataset, catalog }
    }

    /// Returns the same statement with other tokens.
    pub(super) fn with(self, tokens: &'a [Lexeme]) -> Self {
        Self { tokens, ..self }
    }

    /// Returns an error at the token `at`, or at the end.
    pub(super) fn wrong(&self, at: usize, why: &str) -> Status {
        let place = self.tokens.get(at).map_or(self.query.len(), |token| token.at);
        syntax(self.query, place, why)
    }

    pub(super) fn is_word(&self, at: usize, word: &str) -> bool {
        self.tokens.get(at).is_some_and(|token| token.is_word(word))
    }

    /// Returns true if these words, which begin with IF, are at `at`. Then `at` moves behind them.
    fn tolerates(&self, at: &mut usize, words: &[&str]) -> Result<bool, Status> {
        if !self.is_word(*at, "IF") {
            return Ok(false);
        }
        for word in words {
            if !self.is_word(*at, word) {
                return Err(self.wrong(*at, &format!("Syntax error: Expected keyword {word}")));
            }
            *at += 1;
        }
        Ok(true)
    }

    /// Checks that the statement ends at `at`.
    ///
    /// # Errors
    /// Fails if more tokens follow. Running a statement that is understood only in part would do
    /// harm.
    pub(super) fn ends(&self, at: usize) -> Result<(), Status> {
        if at >= self.tokens.len() {
            return Ok(());
        }
        Err(self.wrong(at, "Syntax error: Expected end of input"))
    }

    /// Returns the table whose name is at `at`.
    pub(super) fn table(&self, at: usize, catalog: &Catalog) -> Result<TableName, Status> {
        let parts = self.tokens.get(at).and_then(Lexeme::parts);
        let parts = parts.ok_or_else(|| self.wrong(at, "Syntax error: Expected a table name"))?;
        let scope = Scope { project: self.project, dataset: self.dataset, catalog };
        scope.full(parts).ok_or_else(|| {
            let name = parts.join(".");
            let text =
                format!("Table \"{name}\" must be qualified with a dataset (e.g. dataset.table).");
            Status::invalid(text)
        })
    }
}

impl Catalog {
    /// Runs a statement, or only validates it.
    ///
    /// # Errors
    /// Fails for text that is not a statement. For a statement that is not supported, the error
    /// names it.
    pub(super) fn run(
        &mut self,
        statement: &Statement<'_>,
        dry_run: DryRun,
    ) -> Result<Outcome, Status> {
        let tokens = statement.tokens;
        let ends = tokens.len() - usize::from(tokens.last().is_some_and(|last| last.is_sign(";")));
        let statement = &statement.with(&tokens[..ends]);
        let Some(first) = statement.tokens.first() else {
            return Err(statement.wrong(0, "Syntax error: Unexpected end of statement"));
        };
        if let Some(at) = statement.tokens.iter().position(|token| token.is_sign(";")) {
            let more = format!("scripts of several statements (the second is at {at})");
            return Err(Status::unimplemented(&more));
        }
        let word = first.word().unwrap_or_default().to_ascii_uppercase();
        match word.as_str() {
            "SELECT" | "WITH" | "" => {
                let mut rows =
                    self.select(statement.query, statement.tokens, &statement.scope(self))?;
                if dry_run == DryRun::Yes {
                    rows.rows.clear();
                }
                Ok(Outcome { statement: "SELECT", rows, ..Outcome::default() })
            }
            "INSERT" | "UPDATE" | "DELETE" | "MERGE" | "TRUNCATE" => {
                self.change(&word, statement, dry_run)
            }
            "CREATE" => self.create(statement, dry_run),
            "DROP" => self.drop_table(statement, dry_run),
            "ALTER" | "ASSERT" | "BEGIN" | "CALL" | "COMMIT" | "DECLARE" | "EXECUTE" | "EXPORT"
            | "FOR" | "GRANT" | "IF" | "LOAD" | "LOOP" | "REVOKE" | "ROLLBACK" | "SET"
            | "WHILE" => Err(Status::unimplemented(&format!("the statement {word}"))),
            _ => {
                let found = first.parts().map(|parts| parts.join(".")).unwrap_or_default();
                Err(statement.wrong(0, &format!("Syntax error: Unexpected identifier \"{found}\"")))
            }
        }
    }

    /// Runs `CREATE [OR REPLACE] TABLE [IF NOT EXISTS]`, with columns or a query, and `CREATE
    /// SCHEMA`.
    fn create(&mut self, statement: &Statement<'_>, dry_run: DryRun) -> Result<Outcome, Status> {
        let mut at = 1;
        let replaces = statement.is_word(1, "OR") && statement.is_word(2, "REPLACE");
        at += if replaces { 2 } else { 0 };
        let is_schema = statement.is_word(at, "SCHEMA") && !replaces;
        if !is_schema && !statement.is_word(at, "TABLE") {
            let word = statement.tokens.get(at).and_then(Lexeme::word).unwrap_or_default();
            return Err(Status::unimplemented(&format!("the statement CREATE {word}")));
        }
        at += 1;
        let tolerates = statement.tolerates(&mut at, &["IF", "NOT", "EXISTS"])?;
        if is_schema {
            return self.create_schema(statement, at, tolerates, dry_run);
        }
        if tolerates && replaces {
            return Err(
                statement.wrong(at, "CREATE TABLE cannot have both OR REPLACE and IF NOT EXISTS")
            );
        }
        let name = statement.table(at, self)?;
        self.allow("bigquery.tables.create")?;
        if tolerates && self.tables().contains_key(&name) {
            let made = Some(("SKIP", name));
            return Ok(Outcome { statement: "CREATE_TABLE", made, ..Outcome::default() });
        }
        let schema = self.columns(statement, &mut at)?;
        let query = match statement.tokens.get(at..).unwrap_or_default() {
            [] => None,
            [first, query @ ..] if first.is_word("AS") => Some(query),
            [first, ..] => {
                let word = first.word().unwrap_or_default();
                return Err(Status::unimplemented(&format!("CREATE TABLE ... {word}")));
            }
        };
        let rows = match query {
            Some(query) => Some(self.select(statement.query, query, &statement.scope(self))?),
            None => None,
        };
        self.atomically_unless_dry(&name, dry_run, |catalog| {
            if replaces && catalog.tables().contains_key(&name) {
                catalog.check_kind(&name, Relation::Table)?;
                catalog.delete_table(&name)?;
            }
            catalog.create_filled(&name, schema, rows.as_ref())
        })?;
        let statement = if rows.is_some() { "CREATE_TABLE_AS_SELECT" } else { "CREATE_TABLE" };
        let operation = if replaces { "REPLACE" } else { "CREATE" };
        let made = (dry_run == DryRun::No).then_some((operation, name));
        Ok(Outcome { statement, made, ..Outcome::default() })
    }

    /// Creates a table, and fills it with the rows of a query if there is one.
    fn create_filled(
        &mut self,
        name: &TableName,
        schema: Option<Schema>,
        rows: Option<&Rows>,
    ) -> Result<(), Status> {
        let of_rows = || rows.map(|rows| Schema { fields: rows.fields.clone() });
        let schema = schema.or_else(of_rows).unwrap_or_default();
        self.create_table(name, schema.clone(), Map::new())?;
        rows.map_or(Ok(()), |rows| self.fill(name, &schema, rows))
    }

    fn create_schema(
        &mut self,
        statement: &Statement<'_>,
        at: usize,
        tolerates: bool,
        dry_run: DryRun,
    ) -> Result<Outcome, Status> {
        let name = match statement.tokens.get(at).and_then(Lexeme::parts) {
            Some([project, dataset]) => DatasetName(project.clone(), dataset.clone()),
            Some([dataset]) => DatasetName(statement.project.into(), dataset.clone()),
            _ => return Err(statement.wrong(at, "Syntax error: Expected a dataset name")),
        };
        if statement.tokens.len() > at + 1 {
            return Err(Status::unimplemented("CREATE SCHEMA with options"));
        }
        self.allow("bigquery.datasets.create")?;
        let is_there = self.datasets().contains_key(&name);
        if dry_run == DryRun::No && !(tolerates && is_there) {
            self.create_dataset(&name, Map::new())?;
        }
        Ok(Outcome { statement: "CREATE_SCHEMA", ..Outcome::default() })
    }

    /// Reads the columns in brackets after the table's name at `at`. Then `at` moves behind them.
    fn columns(&self, statement: &Statement<'_>, at: &mut usize) -> Result<Option<Schema>, Status> {
        *at += 1;
        if !statement.tokens.get(*at).is_some_and(|token| token.is_sign("(")) {
            return Ok(None);
        }
        let close = closing(statement.tokens, *at)
            .ok_or_else(|| statement.wrong(*at, "Syntax error: Expected matching brackets"))?;
        let columns = split(statement.tokens, *at + 1, close);
        let fields = columns.into_iter().map(|(from, to)| column(statement, from, to));
        let fields = fields.collect::<Result<_, _>>()?;
        *at = close + 1;
        Ok(Some(Schema { fields }))
    }

    /// Runs `DROP TABLE|VIEW [IF EXISTS]`.
    fn drop_table(
        &mut self,
        statement: &Statement<'_>,
        dry_run: DryRun,
    ) -> Result<Outcome, Status> {
        let (kind, word) = if statement.is_word(1, "TABLE") {
            (Relation::Table, "DROP_TABLE")
        } else if statement.is_word(1, "VIEW") {
            (Relation::View, "DROP_VIEW")
        } else {
            let word = statement.tokens.get(1).and_then(Lexeme::word).unwrap_or_default();
            return Err(Status::unimplemented(&format!("the statement DROP {word}")));
        };
        let mut at = 2;
        let tolerates = statement.tolerates(&mut at, &["IF", "EXISTS"])?;
        let name = statement.table(at, self)?;
        statement.ends(at + 1)?;
        self.allow("bigquery.tables.delete")?;
        if tolerates && !self.tables().contains_key(&name) {
            return Ok(Outcome {
                statement: word,
                made: Some(("SKIP", name)),
                ..Outcome::default()
            });
        }
        self.check_kind(&name, kind)?;
        self.atomically_unless_dry(&name, dry_run, |catalog| catalog.delete_table(&name))?;
        Ok(Outcome { statement: word, made: Some(("DROP", name)), ..Outcome::default() })
    }

    /// Checks that a table is a table or a view, as expected.
    ///
    /// # Errors
    /// Fails if a table is a view, or the other way round.
    fn check_kind(&self, name: &TableName, expected: Relation) -> Result<(), Status> {
        let is_view = self.table(name)?.view().is_some();
        let (found, asked) = match (is_view, expected) {
            (true, Relation::Table) => ("VIEW", "TABLE"),
            (false, Relation::View) => ("TABLE", "VIEW"),
            (true, Relation::View) | (false, Relation::Table) => return Ok(()),
        };
        Err(Status::invalid(format!("{} is a {found}, not a {asked}", name.display())))
    }
}

/// Parses `name TYPE [NOT NULL]`, where the type may be `ARRAY<TYPE>`.
fn column(statement: &Statement<'_>, from: usize, to: usize) -> Result<Field, Status> {
    let tokens = &statement.tokens[from..to];
    let name = tokens.first().and_then(Lexeme::parts).and_then(<[String]>::first);
    let name = name.ok_or_else(|| statement.wrong(from, "Syntax error: Expected a column name"))?;
    let is_list = tokens.get(1).is_some_and(|token| token.is_word("ARRAY"));
    let kind_at = if is_list { 3 } else { 1 };
    let kind = tokens.get(kind_at).and_then(Lexeme::word).unwrap_or_default().to_ascii_uppercase();
    let mode = match &tokens[tokens.len().min(kind_at + 1)..] {
        [] => Mode::Nullable,
        [close] if is_list && close.is_sign(">") => Mode::Repeated,
        [not, null] if not.is_word("NOT") && null.is_word("NULL") => Mode::Required,
        _ => return Err(Status::unimplemented(&format!("attributes of column {name} in SQL"))),
    };
    let kind = kind_named(&kind)
        .ok_or_else(|| Status::unimplemented(&format!("columns of type {kind} in SQL")))?;
    Ok(Field { mode, ..new_field(name, kind) })
}
