//! Rows of a statement: one array for each column, in PostgreSQL's binary form.

use bytes::{Buf as _, BufMut as _, Bytes, BytesMut};
use rows::cell::Cell;
use rows::column::Column;
use tokio_postgres::types::{IsNull, ToSql, Type, to_sql_checked};

use crate::sql_type::{Parameter, SqlType, encode};

/// Bytes before the items of an array: dimensions, flags, type, length and lower bound.
const HEADER: usize = 5 * 4;

/// Rows that grow, one array for each column.
#[derive(Debug)]
pub struct Batch {
    arrays: Vec<Growing>,
    /// Ends of the items before the last row.
    ends: Vec<usize>,
    rows: usize,
}

#[derive(Debug)]
struct Growing {
    parameter: Parameter,
    items: BytesMut,
}

/// Rows of one statement.
#[derive(Debug, Clone)]
pub struct EncodedBatch {
    pub(crate) arrays: Vec<Array>,
    rows: usize,
}

/// Values of one column, as the parameter of a statement.
#[derive(Debug, Clone)]
pub(crate) struct Array {
    parameter: Parameter,
    items: Bytes,
    rows: usize,
}

impl Batch {
    pub(crate) fn new<'a>(types: impl IntoIterator<Item = &'a SqlType>) -> Self {
        let arrays = types
            .into_iter()
            .map(|sql_type| Growing { parameter: sql_type.parameter, items: BytesMut::new() });
        Self { arrays: arrays.collect(), ends: Vec::new(), rows: 0 }
    }

    /// Appends a row, and returns its bytes.
    pub(crate) fn push(&mut self, columns: &[Column], cells: &[Cell]) -> usize {
        let before = self.bytes();
        self.ends.clear();
        for ((array, column), cell) in self.arrays.iter_mut().zip(columns).zip(cells) {
            self.ends.push(array.items.len());
            encode(column, cell, &mut array.items);
        }
        self.rows += 1;
        self.bytes() - before
    }

    /// Removes the row that was pushed last. Call it once after a push.
    pub(crate) fn undo(&mut self) {
        for (array, end) in self.arrays.iter_mut().zip(&self.ends) {
            array.items.truncate(*end);
        }
        self.rows -= 1;
    }

    pub(crate) fn len(&self) -> usize {
        self.rows
    }

    /// Returns the bytes of all values.
    pub(crate) fn bytes(&self) -> usize {
        self.arrays.iter().map(|array| HEADER + array.items.len()).sum()
    }

    /// Returns the memory that the batch takes.
    pub(crate) fn memory(&self) -> usize {
        self.arrays.iter().map(|array| HEADER + array.items.capacity()).sum()
    }

    pub(crate) fn encode(self) -> EncodedBatch {
        let rows = self.rows;
        let arrays = self.arrays.into_iter().map(|Growing { parameter, items }| Array {
            parameter,
            items: items.freeze(),
            rows,
        });
        EncodedBatch { arrays: arrays.collect(), rows }
    }
}

impl EncodedBatch {
    pub(crate) fn rows(&self) -> usize {
        self.rows
    }

    /// Splits the rows into the first `at` and the others. Nothing is copied.
    pub(crate) fn split(&self, at: usize) -> (Self, Self) {
        let (first, rest) = self.arrays.iter().map(|array| array.split(at)).unzip();
        (Self { arrays: first, rows: at }, Self { arrays: rest, rows: self.rows - at })
    }
}

impl Array {
    fn split(&self, at: usize) -> (Self, Self) {
        let mut rest = self.items.clone();
        for _ in 0..at {
            // NULL has the length -1 and no bytes.
            let length = usize::try_from(rest.get_i32()).unwrap_or(0);
            rest.advance(length);
        }
        let first = self.items.slice(..self.items.len() - rest.len());
        let part = |items, rows| Self { parameter: self.parameter, items, rows };
        (part(first, at), part(rest, self.rows - at))
    }
}

impl ToSql for Array {
    fn to_sql(
        &self,
        _: &Type,
        out: &mut BytesMut,
    ) -> Result<IsNull, Box<dyn std::error::Error + Sync + Send>> {
        out.reserve(HEADER + self.items.len());
        // One dimension, whose first index is 1.
        out.put_i32(1);
        // The flag for NULLs. PostgreSQL computes it itself, and accepts either value.
        out.put_i32(1);
        out.put_u32(self.parameter.oid());
        out.put_i32(i32::try_from(self.rows)?);
        out.put_i32(1);
        out.put_slice(&self.items);
        Ok(IsNull::No)
    }

    fn accepts(_: &Type) -> bool {
        // The statement declares the type of each parameter.
        true
    }

    to_sql_checked!();
}

#[cfg(test)]
mod tests {
    use rows::column::Kind;

    use super::*;

    fn rows(cells: &[Cell]) -> EncodedBatch {
        let column = Column::new("c", Kind::String);
        let mut batch = Batch::new([&SqlType::of(&column)]);
        for cell in cells {
            batch.push(std::slice::from_ref(&column), std::slice::from_ref(cell));
        }
        batch.encode()
    }

    fn sql(batch: &EncodedBatch) -> Vec<u8> {
        let mut out = BytesMut::new();
        batch.arrays[0].to_sql(&Type::TEXT_ARRAY, &mut out).unwrap();
        out.to_vec()
    }

    #[test]
    fn rows_are_split_where_they_end() {
        let cells = ["one", "", "three"].map(Cell::from);
        let all = [cells[0].clone(), Cell::Null, cells[1].clone(), cells[2].clone()];

        let mut undone = Batch::new([&SqlType::of(&Column::new("c", Kind::String))]);
        for cell in &all[..2] {
            undone.push(&[Column::new("c", Kind::String)], std::slice::from_ref(cell));
        }
        undone.undo();
        assert_eq!(sql(&undone.encode()), sql(&rows(&all[..1])));
        for at in 1..all.len() {
            let (first, rest) = rows(&all).split(at);

            assert_eq!((first.rows(), rest.rows()), (at, all.len() - at));
            assert_eq!(sql(&first), sql(&rows(&all[..at])));
            assert_eq!(sql(&rest), sql(&rows(&all[at..])));
        }
    }
}
