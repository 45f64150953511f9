//! The MERGE statement.

use std::collections::HashSet;

use super::{
    RowChanges, TargetTable, bracketed, check_once, columns, row_ids, sign, stored, top, word,
};
use crate::bigquery::catalog::Catalog;
use crate::bigquery::names::TableName;
use crate::bigquery::schema::Field;
use crate::bigquery::sql::lex::Lexeme;
use crate::bigquery::sql::source::closing;
use crate::bigquery::statement::Statement;
use crate::status::Status;

/// Parts of `MERGE [INTO] target USING source ON condition`.
struct Merge<'a> {
    target: TargetTable,
    source: &'a [Lexeme],
    condition: &'a [Lexeme],
}

/// Rows that a clause applies to.
#[derive(Clone, Copy, PartialEq, Eq)]
enum MatchKind {
    Matched,
    /// Rows of the source that no row of the table matches.
    NotMatchedByTarget,
    /// Rows of the table that no row of the source matches.
    NotMatchedBySource,
}

/// Parts of `WHEN ... [AND condition] THEN action`.
struct Clause {
    kind: MatchKind,
    condition: Vec<Lexeme>,
    /// Index of the first token of the action, and of its end.
    action: (usize, usize),
}

impl Catalog {
    pub(super) fn merged(
        &self,
        statement: &Statement<'_>,
        at: usize,
        name: &TableName,
    ) -> Result<RowChanges, Status> {
        let tokens = statement.tokens;
        let expected =
            |word: &str| statement.wrong(at + 1, &format!("Syntax error: Expected keyword {word}"));
        let using = top(tokens, at, "USING").ok_or_else(|| expected("USING"))?;
        let on = top(tokens, using, "ON").ok_or_else(|| expected("ON"))?;
        let first = top(tokens, on, "WHEN").ok_or_else(|| expected("WHEN"))?;
        let merge = Merge {
            target: TargetTable::read(statement, at, using, &self.table(name)?.schema)?,
            source: &tokens[using + 1..on],
            condition: &tokens[on + 1..first],
        };
        let mut changes = RowChanges::default();
        // Only the first clause that fits a row applies to it.
        let mut done: HashSet<i64> = HashSet::new();
        let mut before: Vec<Vec<Lexeme>> = Vec::new();
        for clause in clauses(statement, first)? {
            match clause.kind {
                MatchKind::NotMatchedByTarget => {
                    let inserts = self.missing(statement, name, &merge, &clause, &before)?;
                    changes.inserts.extend(inserts);
                    before.push(clause.condition);
                }
                MatchKind::Matched | MatchKind::NotMatchedBySource => {
                    let mut found = self.found(statement, name, &merge, &clause)?;
                    found.updates.retain(|(id, _)| !done.contains(id));
                    found.deletes.retain(|id| !done.contains(id));
                    done.extend(found.updates.iter().map(|(id, _)| *id));
                    done.extend(&found.deletes);
                    changes.updates.extend(found.updates);
                    changes.deletes.extend(found.deletes);
                }
            }
        }
        Ok(changes)
    }

    /// Returns the changes of a clause to existing rows.
    fn found(
        &self,
        statement: &Statement<'_>,
        name: &TableName,
        merge: &Merge<'_>,
        clause: &Clause,
    ) -> Result<RowChanges, Status> {
        let (from, to) = clause.action;
        let mut source = merge.target.tokens.clone();
        let mut condition = clause.condition.clone();
        if clause.kind == MatchKind::Matched {
            source.push(word("JOIN"));
            source.extend_from_slice(merge.source);
            source.push(word("ON"));
            source.extend(bracketed(merge.condition));
        } else {
            condition.push(word("AND"));
            condition.extend(merge.exists_in(merge.source));
        }
        if statement.is_word(from, "DELETE") {
            let query = merge.target.select(&[], &source, &condition);
            let found = self.select(statement.query, &query, &statement.scope(self))?;
            let deletes = row_ids(&found.rows);
            check_once(&deletes)?;
            return Ok(RowChanges { deletes, ..RowChanges::default() });
        }
        if !(statement.is_word(from, "UPDATE") && statement.is_word(from + 1, "SET")) {
            return Err(statement.wrong(from, "Syntax error: Expected UPDATE SET or DELETE"));
        }
        let assigned = self.assigned(statement, name, from + 2..to)?;
        let query = merge.target.select(&assigned, &source, &condition);
        let updates = self.updates(statement, &query, &assigned)?;
        Ok(RowChanges { updates, ..RowChanges::default() })
    }

    /// Returns the rows that a clause inserts.
    fn missing(
        &self,
        statement: &Statement<'_>,
        name: &TableName,
        merge: &Merge<'_>,
        clause: &Clause,
        before: &[Vec<Lexeme>],
    ) -> Result<Vec<Vec<rusqlite::types::Value>>, Status> {
        let (from, to) = clause.action;
        if !statement.is_word(from, "INSERT") {
            return Err(statement.wrong(from, "Syntax error: Expected INSERT"));
        }
        let fields = self.table(name)?.schema.fields.clone();
        let (named, values): (Vec<Field>, usize) = columns(statement, from + 1, &fields)?;
        if !statement.is_word(values, "VALUES") {
            return Err(Status::unimplemented("MERGE with INSERT ROW"));
        }
        let close = closing(statement.tokens, values + 1).filter(|close| close + 1 == to);
        let close =
            close.ok_or_else(|| statement.wrong(values, "Syntax error: Expected values"))?;
        let mut query = vec![word("SELECT")];
        query.extend_from_slice(&statement.tokens[values + 2..close]);
        query.push(word("FROM"));
        query.extend_from_slice(merge.source);
        query.push(word("WHERE"));
        query.extend(bracketed(&clause.condition));
        for condition in before {
            query.extend([word("AND"), word("NOT")]);
            query.extend(bracketed(condition));
        }
        query.push(word("AND"));
        query.extend(merge.exists_in(&merge.target.tokens));
        let rows = self.rows(statement, &query, &named)?;
        stored(&fields, &named, &rows)
    }
}

impl Merge<'_> {
    /// Builds `NOT EXISTS (SELECT TRUE FROM other WHERE condition)`.
    fn exists_in(&self, other: &[Lexeme]) -> Vec<Lexeme> {
        let mut query = vec![word("SELECT"), word("TRUE"), word("FROM")];
        query.extend_from_slice(other);
        query.push(word("WHERE"));
        query.extend(bracketed(self.condition));
        [vec![word("NOT"), word("EXISTS"), sign("(")], query, vec![sign(")")]].concat()
    }
}

/// Parses the clauses from the first WHEN.
fn clauses(statement: &Statement<'_>, first: usize) -> Result<Vec<Clause>, Status> {
    let tokens = statement.tokens;
    let mut clauses = Vec::new();
    let mut at = first;
    while at < tokens.len() {
        let then = top(tokens, at, "THEN")
            .ok_or_else(|| statement.wrong(at, "Syntax error: Expected keyword THEN"))?;
        let end = top(tokens, then, "WHEN").unwrap_or(tokens.len());
        let is_not = statement.is_word(at + 1, "NOT");
        let mut after = at + 2 + usize::from(is_not);
        let by_source = statement.is_word(after, "BY") && statement.is_word(after + 1, "SOURCE");
        after += if statement.is_word(after, "BY") { 2 } else { 0 };
        let kind = match (is_not, by_source) {
            (false, _) => MatchKind::Matched,
            (true, true) => MatchKind::NotMatchedBySource,
            (true, false) => MatchKind::NotMatchedByTarget,
        };
        let condition = match tokens.get(after..then) {
            Some([]) => vec![word("TRUE")],
            Some([and, condition @ ..]) if and.is_word("AND") => bracketed(condition),
            _ => return Err(statement.wrong(after, "Syntax error: Expected keyword THEN")),
        };
        clauses.push(Clause { kind, condition, action: (then + 1, end) });
        at = end;
    }
    Ok(clauses)
}
