//! Tools for operators.

pub mod dead_letters;
