//! Transforms of fields.

use std::cmp::Ordering;

use proto::document_transform::FieldTransform;
use proto::document_transform::field_transform::{ServerValue, TransformType};
use proto::value::ValueType;

use super::fields::{self, Fields};
use super::order::{self, Rank};
use super::time::Time;
use super::{names, proto};
use crate::status::Status;

/// Transforms fields in order, and returns the result of each.
pub(super) fn apply(
    fields: &mut Fields,
    transforms: &[FieldTransform],
    time: Time,
) -> Result<Vec<proto::Value>, Status> {
    let mut results = Vec::with_capacity(transforms.len());
    for transform in transforms {
        let path = names::field_path(&transform.field_path)?;
        fields::check_path(&path)?;
        let (value, result) = transformed(fields::find(fields, &path), transform, time)?;
        fields::set(fields, &path, value);
        results.push(result);
    }
    Ok(results)
}

/// Returns the new value of a field, and the result that its transform reports.
fn transformed(
    current: Option<&proto::Value>,
    transform: &FieldTransform,
    time: Time,
) -> Result<(proto::Value, proto::Value), Status> {
    let elements = match current.and_then(|value| value.value_type.as_ref()) {
        Some(ValueType::ArrayValue(array)) => array.values.as_slice(),
        _ => &[],
    };
    let number = current.filter(|value| is_number(value));
    let value = match &transform.transform_type {
        Some(TransformType::SetToServerValue(wanted)) => {
            if ServerValue::try_from(*wanted) != Ok(ServerValue::RequestTime) {
                return Err(Status::invalid("Unknown server value."));
            }
            of(ValueType::TimestampValue(time.millis().into()))
        }
        Some(TransformType::Increment(by)) => increment(number, checked(by)?),
        Some(TransformType::Maximum(with)) => extreme(number, checked(with)?, Ordering::Greater),
        Some(TransformType::Minimum(with)) => extreme(number, checked(with)?, Ordering::Less),
        Some(TransformType::AppendMissingElements(wanted)) => {
            let mut values = elements.to_vec();
            for value in &wanted.values {
                if !contains(&values, value) {
                    values.push(value.clone());
                }
            }
            return Ok((array(values), null()));
        }
        Some(TransformType::RemoveAllFromArray(unwanted)) => {
            let left = elements.iter().filter(|value| !contains(&unwanted.values, value));
            return Ok((array(left.cloned().collect()), null()));
        }
        None => {
            let text = "Operation type must be specified for field transformation.";
            return Err(Status::invalid(text));
        }
    };
    Ok((value.clone(), value))
}

/// Returns true if an array contains a value. Unlike in queries, null equals null and NaN equals
/// NaN.
fn contains(values: &[proto::Value], wanted: &proto::Value) -> bool {
    values.iter().any(|value| order::compare(value, wanted).is_eq())
}

fn is_number(value: &proto::Value) -> bool {
    matches!(order::rank(value), Rank::Number | Rank::Nan)
}

fn checked(operand: &proto::Value) -> Result<&proto::Value, Status> {
    let is_good = is_number(operand);
    is_good.then_some(operand).ok_or_else(|| Status::invalid("Input must be int64 or double."))
}

/// Adds two numbers. Integers that would overflow stay at the limit.
fn increment(current: Option<&proto::Value>, by: &proto::Value) -> proto::Value {
    let Some(current) = current else { return by.clone() };
    match (&current.value_type, &by.value_type) {
        (Some(ValueType::IntegerValue(current)), Some(ValueType::IntegerValue(by))) => {
            of(ValueType::IntegerValue(current.saturating_add(*by)))
        }
        _ => of(ValueType::DoubleValue(as_double(current) + as_double(by))),
    }
}

/// Returns the smaller or larger of two numbers, or NaN if one of them is NaN.
fn extreme(
    current: Option<&proto::Value>,
    other: &proto::Value,
    direction: Ordering,
) -> proto::Value {
    let Some(current) = current else { return other.clone() };
    if order::rank(current) == Rank::Nan || order::rank(other) == Rank::Nan {
        return of(ValueType::DoubleValue(f64::NAN));
    }
    let is_beyond = order::compare(other, current) == direction;
    if is_beyond { other.clone() } else { current.clone() }
}

/// Returns a number as a double; 0 for other values.
pub(super) fn as_double(value: &proto::Value) -> f64 {
    match &value.value_type {
        Some(ValueType::IntegerValue(number)) => *number as f64,
        Some(ValueType::DoubleValue(number)) => *number,
        _ => 0.0,
    }
}

pub(super) fn of(value: ValueType) -> proto::Value {
    proto::Value { value_type: Some(value) }
}

pub(super) fn null() -> proto::Value {
    of(ValueType::NullValue(0))
}

fn array(values: Vec<proto::Value>) -> proto::Value {
    of(ValueType::ArrayValue(proto::ArrayValue { values }))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn increment(path: &str) -> Result<Vec<proto::Value>, Status> {
        let by = of(ValueType::IntegerValue(1));
        let transform = FieldTransform {
            field_path: path.to_owned(),
            transform_type: Some(TransformType::Increment(by)),
        };
        apply(&mut Fields::new(), &[transform], Time::now())
    }

    #[test]
    fn a_transform_reaches_as_deep_as_a_document_and_no_deeper() {
        assert!(increment(&["a"; 21].join(".")).is_ok());
        assert!(increment(&["a"; 22].join(".")).is_err());
        assert!(increment(&["a"; 200_000].join(".")).is_err());
    }
}
