//! Statements that change rows. Each one is executed as queries that find the new values and the
//! rows.

mod merge;

use std::collections::HashSet;
use std::ops::Range;

use rusqlite::types::Value as Sql;
use serde_json::{Map, Value};

use super::catalog::Catalog;
use super::names::{TableName, missing};
use super::rows::to_json;
use super::schema::{Field, FieldType, Schema, new_field};
use super::sql::lex::{Lexeme, Quoted, Token};
use super::sql::source::{closing, split};
use super::sqlite::{failed, quote};
use super::statement::{Counts, Outcome, Statement};
use super::transaction::DryRun;
use super::value;
use crate::status::Status;

/// A row id with the columns that get new values.
type Update = (i64, Vec<(String, Sql)>);

/// All changes of a statement to a table.
#[derive(Debug, Default)]
struct RowChanges {
    updates: Vec<Update>,
    deletes: Vec<i64>,
    inserts: Vec<Vec<Sql>>,
}

impl Catalog {
    /// Runs a statement that changes rows.
    pub(super) fn change(
        &mut self,
        word: &str,
        statement: &Statement<'_>,
        dry_run: DryRun,
    ) -> Result<Outcome, Status> {
        let at = match word {
            "INSERT" | "MERGE" => 1 + usize::from(statement.is_word(1, "INTO")),
            "DELETE" => 1 + usize::from(statement.is_word(1, "FROM")),
            "TRUNCATE" if !statement.is_word(1, "TABLE") => {
                return Err(statement.wrong(1, "Syntax error: Expected keyword TABLE"));
            }
            "TRUNCATE" => 2,
            _ => 1,
        };
        let name = statement.table(at, self)?;
        self.allow("bigquery.tables.updateData")?;
        if !self.tables().contains_key(&name) {
            return Err(missing(
                "Table",
                &format!("{} was not found in location US", name.display()),
            ));
        }
        if self.table(&name)?.view().is_some() {
            return Err(Status::invalid(format!("{word} into a view: {}", name.display())));
        }
        let (statement_type, changes) = match word {
            "INSERT" => ("INSERT", self.inserted(statement, at, &name)?),
            "UPDATE" => ("UPDATE", self.updated(statement, at, &name)?),
            "DELETE" => ("DELETE", self.deleted(statement, at, &name)?),
            "MERGE" => ("MERGE", self.merged(statement, at, &name)?),
            _ => {
                statement.ends(at + 1)?;
                ("TRUNCATE_TABLE", self.all_of(&name)?)
            }
        };
        let counts = Counts {
            inserted: changes.inserts.len(),
            updated: changes.updates.len(),
            deleted: changes.deletes.len(),
        };
        if dry_run == DryRun::No {
            self.apply(&name, changes)?;
        }
        Ok(Outcome { statement: statement_type, counts: Some(counts), ..Outcome::default() })
    }

    /// Removes all rows.
    pub(super) fn truncate(&mut self, name: &TableName) -> Result<(), Status> {
        let statement = format!("DELETE FROM {}", name.quoted());
        self.connection.execute(&statement, []).map(drop).map_err(|error| failed(&error))
    }

    fn all_of(&self, name: &TableName) -> Result<RowChanges, Status> {
        let last = self.last_row(name)?;
        Ok(RowChanges { deletes: (1..=last).collect(), ..RowChanges::default() })
    }

    /// Executes `INSERT [INTO] table [(columns)] VALUES ... | query`.
    fn inserted(
        &self,
        statement: &Statement<'_>,
        at: usize,
        name: &TableName,
    ) -> Result<RowChanges, Status> {
        let fields = self.table(name)?.schema.fields.clone();
        let (columns, from) = columns(statement, at + 1, &fields)?;
        let rows =
            self.rows(statement, &statement.tokens[from.min(statement.tokens.len())..], &columns)?;
        Ok(RowChanges { inserts: stored(&fields, &columns, &rows)?, ..RowChanges::default() })
    }

    /// Returns the rows of a query or of VALUES, each with a value for every column.
    fn rows(
        &self,
        statement: &Statement<'_>,
        tokens: &[Lexeme],
        columns: &[Field],
    ) -> Result<Vec<Vec<Sql>>, Status> {
        if tokens.iter().any(|token| token.is_word("DEFAULT")) {
            return Err(Status::unimplemented("DEFAULT in statements"));
        }
        let found = self.select(statement.query, tokens, &statement.scope(self))?;
        let (has, needs) = (found.fields.len(), columns.len());
        if has != needs {
            let text = format!("Inserted row has wrong column count; Has {has}, expected {needs}");
            let mut status = Status::invalid(text);
            status.reason = Some("invalidQuery".into());
            return Err(status);
        }
        Ok(found.rows)
    }

    /// Executes `UPDATE table [alias] SET column = value, ... [FROM tables] WHERE condition`.
    fn updated(
        &self,
        statement: &Statement<'_>,
        at: usize,
        name: &TableName,
    ) -> Result<RowChanges, Status> {
        let tokens = statement.tokens;
        let set = top(tokens, at, "SET")
            .ok_or_else(|| statement.wrong(at + 1, "Syntax error: Expected keyword SET"))?;
        let condition = top(tokens, set, "WHERE")
            .ok_or_else(|| statement.wrong(0, "UPDATE must have a WHERE clause"))?;
        let from = top(tokens, set, "FROM").filter(|from| *from < condition);
        let target = TargetTable::read(statement, at, set, &self.table(name)?.schema)?;
        let assigned = self.assigned(statement, name, set + 1..from.unwrap_or(condition))?;
        let mut source = target.tokens.clone();
        if let Some(from) = from {
            source.push(sign(","));
            source.extend_from_slice(&tokens[from + 1..condition]);
        }
        let query = target.select(&assigned, &source, &tokens[condition + 1..]);
        let updates = self.updates(statement, &query, &assigned)?;
        Ok(RowChanges { updates, ..RowChanges::default() })
    }

    /// Executes `DELETE [FROM] table [alias] WHERE condition`.
    fn deleted(
        &self,
        statement: &Statement<'_>,
        at: usize,
        name: &TableName,
    ) -> Result<RowChanges, Status> {
        let tokens = statement.tokens;
        let condition = top(tokens, at, "WHERE")
            .ok_or_else(|| statement.wrong(0, "DELETE must have a WHERE clause"))?;
        let target = TargetTable::read(statement, at, condition, &self.table(name)?.schema)?;
        let query = target.select(&[], &target.tokens, &tokens[condition + 1..]);
        let found = self.select(statement.query, &query, &statement.scope(self))?;
        Ok(RowChanges { deletes: row_ids(&found.rows), ..RowChanges::default() })
    }

    /// Parses the assignments in a range: columns and the tokens of their values.
    fn assigned<'a>(
        &self,
        statement: &Statement<'a>,
        name: &TableName,
        range: Range<usize>,
    ) -> Result<Vec<(Field, &'a [Lexeme])>, Status> {
        let schema = &self.table(name)?.schema;
        let assignments =
            split(statement.tokens, range.start, range.end).into_iter().map(|(from, to)| {
                let tokens = &statement.tokens[from..to];
                let [column, equals, value @ ..] = tokens else {
                    return Err(statement.wrong(from, "Syntax error: Expected an assignment"));
                };
                if !equals.is_sign("=") || value.is_empty() {
                    return Err(statement.wrong(from + 1, "Syntax error: Expected \"=\""));
                }
                if value.iter().any(|token| token.is_word("DEFAULT")) {
                    return Err(Status::unimplemented("DEFAULT in statements"));
                }
                let parts = column.parts().unwrap_or_default();
                match parts {
                    [one] | [_, one] if schema.find(one).is_some() => {}
                    [one, _, ..] if schema.find(one).is_some() => {
                        return Err(Status::unimplemented("UPDATE of a field in a record"));
                    }
                    _ => {
                        let why = format!("Unrecognized name: {}", parts.join("."));
                        return Err(statement.wrong(from, &why));
                    }
                }
                let field = parts.last().and_then(|one| schema.find(one)).cloned();
                Ok((field.unwrap_or_else(|| new_field("", FieldType::String)), value))
            });
        assignments.collect()
    }

    /// Runs a query of row ids and values, and returns it as updates.
    fn updates(
        &self,
        statement: &Statement<'_>,
        query: &[Lexeme],
        assigned: &[(Field, &[Lexeme])],
    ) -> Result<Vec<Update>, Status> {
        let found = self.select(statement.query, query, &statement.scope(self))?;
        let fields: Vec<Field> = assigned.iter().map(|(field, _)| field.clone()).collect();
        let values: Vec<Vec<Sql>> = found.rows.iter().map(|row| row[1..].to_vec()).collect();
        let values = stored(&fields, &fields, &values)?;
        let ids = row_ids(&found.rows);
        check_once(&ids)?;
        let names = || fields.iter().map(|field| field.name.clone());
        Ok(ids
            .into_iter()
            .zip(values)
            .map(|(id, values)| (id, names().zip(values).collect()))
            .collect())
    }

    /// Writes all changes or none. After deletions row ids are without gaps again.
    fn apply(&mut self, name: &TableName, changes: RowChanges) -> Result<(), Status> {
        let table = name.quoted();
        let found = self.table(name)?;
        let (insert, row_id) = (found.insert_statement(name), found.schema.row_id());
        let transaction = self.connection.savepoint().map_err(|error| failed(&error))?;
        let work = || -> rusqlite::Result<()> {
            for (id, values) in changes.updates {
                let set: Vec<_> =
                    values.iter().map(|(name, _)| format!("{} = ?", quote(name))).collect();
                let statement =
                    format!("UPDATE {table} SET {} WHERE {row_id} = {id}", set.join(", "));
                let values = values.into_iter().map(|(_, value)| value);
                transaction
                    .prepare_cached(&statement)?
                    .execute(rusqlite::params_from_iter(values))?;
            }
            if !changes.deletes.is_empty() {
                let statement = format!("DELETE FROM {table} WHERE {row_id} = ?");
                let mut prepared = transaction.prepare(&statement)?;
                for id in &changes.deletes {
                    prepared.execute([id])?;
                }
                transaction.execute_batch(&format!(
                    "CREATE TEMP TABLE \"#kept\" AS SELECT * FROM {table} ORDER BY {row_id};
                     DELETE FROM {table};
                     INSERT INTO {table} SELECT * FROM \"#kept\" ORDER BY {row_id};
                     DROP TABLE \"#kept\";"
                ))?;
            }
            let mut prepared = transaction.prepare(&insert)?;
            for row in changes.inserts {
                prepared.execute(rusqlite::params_from_iter(row))?;
            }
            Ok(())
        };
        work().map_err(|error| failed(&error))?;
        transaction.commit().map_err(|error| failed(&error))
    }
}

/// A table that is changed, with its alias in the statement.
struct TargetTable {
    alias: String,
    row_id: &'static str,
    /// Tokens of the table in a FROM clause.
    tokens: Vec<Lexeme>,
}

impl TargetTable {
    /// Reads `table [[AS] alias]` from `at`.
    ///
    /// # Errors
    /// Fails if there is anything else.
    fn read(
        statement: &Statement<'_>,
        at: usize,
        to: usize,
        schema: &Schema,
    ) -> Result<Self, Status> {
        let tokens = statement.tokens.get(at..to).unwrap_or_default();
        let name = match tokens {
            [table] => table.parts(),
            [_, alias] => alias.parts().filter(|parts| parts.len() == 1),
            [_, word, alias] if word.is_word("AS") => {
                alias.parts().filter(|parts| parts.len() == 1)
            }
            _ => None,
        };
        let alias = name.and_then(<[String]>::last).cloned();
        let wrong = || statement.wrong(at + 1, "Syntax error: Expected one table and its alias");
        let (alias, row_id) = (alias.ok_or_else(wrong)?, schema.row_id());
        Ok(Self { alias, row_id, tokens: tokens.to_vec() })
    }

    /// Builds a query for the ids of rows and their new values.
    fn select(
        &self,
        assigned: &[(Field, &[Lexeme])],
        source: &[Lexeme],
        condition: &[Lexeme],
    ) -> Vec<Lexeme> {
        let id = format!("{}.{}", quote(&self.alias), self.row_id);
        let id = Token::Literal(id, new_field("", FieldType::Integer));
        let mut query = vec![word("SELECT"), Lexeme { token: id, at: 0 }];
        for (_, value) in assigned {
            query.push(sign(","));
            query.extend(bracketed(value));
        }
        query.push(word("FROM"));
        query.extend_from_slice(source);
        query.push(word("WHERE"));
        query.extend(bracketed(condition));
        query
    }
}

fn bracketed(tokens: &[Lexeme]) -> Vec<Lexeme> {
    [&[sign("(")], tokens, &[sign(")")]].concat()
}

fn word(text: &str) -> Lexeme {
    Lexeme { token: Token::Name(vec![text.into()], Quoted::No), at: 0 }
}

fn sign(text: &str) -> Lexeme {
    Lexeme { token: Token::Sign(text.into()), at: 0 }
}

/// Returns the index of a keyword outside of all brackets.
fn top(tokens: &[Lexeme], from: usize, word: &str) -> Option<usize> {
    let mut depth = 0_i32;
    let mut places = tokens.iter().enumerate().skip(from);
    let found = places.find(|(_, token)| {
        depth += i32::from(token.is_sign("(") || token.is_word("CASE"));
        depth -= i32::from(token.is_sign(")") || token.is_word("END"));
        depth == 0 && token.is_word(word)
    });
    found.map(|(at, _)| at)
}

/// Returns the columns in brackets at `at`, or all columns, and the index of the next token.
fn columns(
    statement: &Statement<'_>,
    at: usize,
    fields: &[Field],
) -> Result<(Vec<Field>, usize), Status> {
    let opens = statement.tokens.get(at).is_some_and(|token| token.is_sign("("));
    let is_query = statement.is_word(at + 1, "SELECT") || statement.is_word(at + 1, "WITH");
    if !opens || is_query {
        return Ok((fields.to_vec(), at));
    }
    let close = closing(statement.tokens, at)
        .ok_or_else(|| statement.wrong(at, "Syntax error: Expected matching brackets"))?;
    let named = split(statement.tokens, at + 1, close).into_iter().map(|(from, _)| {
        let name = statement.tokens[from].parts().and_then(<[String]>::last);
        let name = name.map(String::as_str).unwrap_or_default();
        super::schema::find(fields, name)
            .cloned()
            .ok_or_else(|| statement.wrong(from, &format!("Column {name} is not present in table")))
    });
    Ok((named.collect::<Result<_, _>>()?, close + 1))
}

/// Converts rows to the form that a table keeps. `columns` get their values, and other fields their
/// defaults.
fn stored(fields: &[Field], columns: &[Field], rows: &[Vec<Sql>]) -> Result<Vec<Vec<Sql>>, Status> {
    let rows = rows.iter().map(|row| {
        let cells = columns.iter().zip(row);
        let mut row: Map<String, Value> =
            cells.map(|(field, stored)| (field.name.clone(), to_json(field, stored))).collect();
        value::default::fill(fields, &mut row).map_err(|why| Status::unimplemented(&why))?;
        value::store_row(fields, &row, false).map_err(|fault| {
            let mut status = Status::invalid(fault.message);
            status.reason = Some("invalidQuery".into());
            status
        })
    });
    rows.collect()
}

fn row_ids(rows: &[Vec<Sql>]) -> Vec<i64> {
    let ids = rows.iter().filter_map(|row| match row.first() {
        Some(Sql::Integer(id)) => Some(*id),
        _ => None,
    });
    ids.collect()
}

/// Checks that no row is written twice.
///
/// # Errors
/// Fails if a row id appears twice.
fn check_once(ids: &[i64]) -> Result<(), Status> {
    let mut seen = HashSet::new();
    if ids.iter().all(|id| seen.insert(*id)) {
        return Ok(());
    }
    let mut status =
        Status::invalid("UPDATE/MERGE must match at most one source row for each target row");
    status.reason = Some("invalidQuery".into());
    Err(status)
}
