//! Functions of numbers that SQLite lacks, or that have another meaning there.

use rusqlite::Connection;
use rusqlite::functions::Context;
use rusqlite::types::Value as Sql;

use super::scalar::{FunctionResult, add, failed};

pub(super) fn register(connection: &Connection) -> rusqlite::Result<()> {
    add(connection, "CEIL", 1, |call| one(call, f64::ceil))?;
    add(connection, "EXP", 1, |call| one(call, f64::exp))?;
    add(connection, "FLOOR", 1, |call| one(call, f64::floor))?;
    add(connection, "LN", 1, |call| one(call, f64::ln))?;
    add(connection, "LOG", 1, |call| one(call, f64::ln))?;
    add(connection, "LOG", 2, |call| two(call, f64::log))?;
    add(connection, "LOG10", 1, |call| one(call, f64::log10))?;
    add(connection, "POW", 2, |call| two(call, f64::powf))?;
    add(connection, "SQRT", 1, |call| one(call, f64::sqrt))?;
    for arguments in [1, 2] {
        add(connection, "ROUND", arguments, |call| to_digits(call, f64::round))?;
        add(connection, "TRUNC", arguments, |call| to_digits(call, f64::trunc))?;
    }
    Ok(())
}

/// Returns a result, which must be a number if the arguments are.
fn checked(result: f64, arguments: &[f64]) -> FunctionResult {
    if !result.is_finite() && arguments.iter().all(|argument| argument.is_finite()) {
        return Err(failed(format!("Floating point error in a function of {arguments:?}")));
    }
    Ok(Some(Sql::Real(result)))
}

fn one(call: &Context<'_>, function: fn(f64) -> f64) -> FunctionResult {
    let Some(number) = call.get::<Option<f64>>(0)? else { return Ok(None) };
    checked(function(number), &[number])
}

fn two(call: &Context<'_>, function: fn(f64, f64) -> f64) -> FunctionResult {
    let (Some(left), Some(right)) = (call.get::<Option<f64>>(0)?, call.get::<Option<f64>>(1)?)
    else {
        return Ok(None);
    };
    checked(function(left, right), &[left, right])
}

/// Rounds a number to digits after the point, or before it if their number is negative.
fn to_digits(call: &Context<'_>, round: fn(f64) -> f64) -> FunctionResult {
    let Some(number) = call.get::<Option<f64>>(0)? else { return Ok(None) };
    let digits = if call.len() > 1 { call.get::<Option<i32>>(1)? } else { Some(0) };
    let Some(digits) = digits else { return Ok(None) };
    let scale = 10_f64.powi(digits.saturating_abs());
    let rounded = match digits {
        0 => round(number),
        1.. => {
            let scaled = number * scale;
            // Such a number has no digits there.
            if !scaled.is_finite() || scaled.abs() >= 9e15 { number } else { round(scaled) / scale }
        }
        _ if scale.is_finite() => round(number / scale) * scale,
        _ => 0.0,
    };
    Ok(Some(Sql::Real(rounded)))
}
