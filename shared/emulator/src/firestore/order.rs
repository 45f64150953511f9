//! Order of values and names, from
//! <https://cloud.google.com/firestore/native/docs/concepts/data-types#value_type_ordering>.

use std::cmp::Ordering;
use std::collections::HashMap;

use googleapis_tonic_google_firestore_v1::google::r#type::LatLng;
use prost_types::Timestamp;

use super::proto;
use proto::value::ValueType;

/// Type of a value, in the order of types. NaN has a type of its own because no range contains it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Rank {
    Null,
    Boolean,
    Nan,
    Number,
    Timestamp,
    Text,
    Bytes,
    Reference,
    GeoPoint,
    Array,
    Vector,
    Map,
}

/// Returns the type of a value.
pub(super) fn rank(value: &proto::Value) -> Rank {
    match &value.value_type {
        None | Some(ValueType::NullValue(_)) => Rank::Null,
        Some(ValueType::BooleanValue(_)) => Rank::Boolean,
        Some(ValueType::DoubleValue(number)) if number.is_nan() => Rank::Nan,
        Some(ValueType::IntegerValue(_) | ValueType::DoubleValue(_)) => Rank::Number,
        Some(ValueType::TimestampValue(_)) => Rank::Timestamp,
        Some(ValueType::StringValue(_)) => Rank::Text,
        Some(ValueType::BytesValue(_)) => Rank::Bytes,
        Some(ValueType::ReferenceValue(_)) => Rank::Reference,
        Some(ValueType::GeoPointValue(_)) => Rank::GeoPoint,
        Some(ValueType::ArrayValue(_)) => Rank::Array,
        Some(ValueType::MapValue(map)) if vector(map).is_some() => Rank::Vector,
        Some(ValueType::MapValue(_)) => Rank::Map,
        // Parts of pipelines, which documents cannot contain.
        Some(
            ValueType::FieldReferenceValue(_)
            | ValueType::VariableReferenceValue(_)
            | ValueType::FunctionValue(_)
            | ValueType::PipelineValue(_),
        ) => Rank::Null,
    }
}

/// Compares two values of any types. Equivalent numbers of different types are equal.
pub(super) fn compare(left: &proto::Value, right: &proto::Value) -> Ordering {
    use ValueType::{
        ArrayValue, BooleanValue, BytesValue, GeoPointValue, MapValue, ReferenceValue, StringValue,
        TimestampValue,
    };
    let ranks = rank(left).cmp(&rank(right));
    if ranks.is_ne() {
        return ranks;
    }
    match (&left.value_type, &right.value_type) {
        (Some(BooleanValue(left)), Some(BooleanValue(right))) => left.cmp(right),
        (Some(TimestampValue(left)), Some(TimestampValue(right))) => time(left).cmp(&time(right)),
        (Some(StringValue(left)), Some(StringValue(right))) => left.cmp(right),
        (Some(BytesValue(left)), Some(BytesValue(right))) => left.cmp(right),
        (Some(ReferenceValue(left)), Some(ReferenceValue(right))) => names(left, right),
        (Some(GeoPointValue(left)), Some(GeoPointValue(right))) => points(left, right),
        (Some(ArrayValue(left)), Some(ArrayValue(right))) => arrays(&left.values, &right.values),
        (Some(MapValue(left)), Some(MapValue(right))) => match (vector(left), vector(right)) {
            (Some(left), Some(right)) => {
                left.len().cmp(&right.len()).then_with(|| arrays(left, right))
            }
            _ => maps(&left.fields, &right.fields),
        },
        _ => numbers(left, right),
    }
}

/// Returns true if a query finds two values equal. Null and NaN equal nothing.
pub(super) fn equal(left: &proto::Value, right: &proto::Value) -> bool {
    !matches!(rank(left), Rank::Null | Rank::Nan) && compare(left, right).is_eq()
}

/// Compares names of documents by their ids. Numeric ids come first.
pub(super) fn names(left: &str, right: &str) -> Ordering {
    let key = |id| (numeric_id(id).is_none(), numeric_id(id), id);
    left.split('/').map(key).cmp(right.split('/').map(key))
}

/// Returns the number of an id such as `__id7__`. Firestore inherited such ids from Datastore.
pub(super) fn numeric_id(id: &str) -> Option<i64> {
    id.strip_prefix("__id")?.strip_suffix("__")?.parse().ok()
}

fn time(timestamp: &Timestamp) -> (i64, i32) {
    (timestamp.seconds, timestamp.nanos)
}

fn points(left: &LatLng, right: &LatLng) -> Ordering {
    left.latitude
        .total_cmp(&right.latitude)
        .then_with(|| left.longitude.total_cmp(&right.longitude))
}

fn arrays(left: &[proto::Value], right: &[proto::Value]) -> Ordering {
    let pairs = left.iter().zip(right);
    let first = pairs.map(|(left, right)| compare(left, right)).find(|order| order.is_ne());
    first.unwrap_or_else(|| left.len().cmp(&right.len()))
}

fn maps(left: &HashMap<String, proto::Value>, right: &HashMap<String, proto::Value>) -> Ordering {
    let sorted = |fields: &HashMap<String, proto::Value>| {
        let mut keys: Vec<_> = fields.keys().cloned().collect();
        keys.sort_unstable();
        keys
    };
    let (left_keys, right_keys) = (sorted(left), sorted(right));
    for (one, other) in left_keys.iter().zip(&right_keys) {
        let order = one.cmp(other).then_with(|| compare(&left[one], &right[other]));
        if order.is_ne() {
            return order;
        }
    }
    left.len().cmp(&right.len())
}

/// Returns the elements of a vector, which is a map with a marker.
fn vector(map: &proto::MapValue) -> Option<&[proto::Value]> {
    let mark = &map.fields.get("__type__")?.value_type;
    let is_vector = matches!(mark, Some(ValueType::StringValue(mark)) if mark == "__vector__");
    match &map.fields.get("value")?.value_type {
        Some(ValueType::ArrayValue(array)) if is_vector => Some(&array.values),
        _ => None,
    }
}

/// Compares numbers that are not NaN. Other values are equal.
fn numbers(left: &proto::Value, right: &proto::Value) -> Ordering {
    use ValueType::{DoubleValue, IntegerValue};
    match (&left.value_type, &right.value_type) {
        (Some(IntegerValue(left)), Some(IntegerValue(right))) => left.cmp(right),
        (Some(IntegerValue(left)), Some(DoubleValue(right))) => integer_to_double(*left, *right),
        (Some(DoubleValue(left)), Some(IntegerValue(right))) => {
            integer_to_double(*right, *left).reverse()
        }
        (Some(DoubleValue(left)), Some(DoubleValue(right))) => {
            left.partial_cmp(right).unwrap_or(Ordering::Equal)
        }
        _ => Ordering::Equal,
    }
}

/// Compares without losing the digits that do not fit into a double.
fn integer_to_double(integer: i64, double: f64) -> Ordering {
    /// Two to the power of 63: the first double above all integers.
    const ABOVE: f64 = 9_223_372_036_854_775_808.0;
    if double >= ABOVE {
        return Ordering::Less;
    }
    if double < -ABOVE {
        return Ordering::Greater;
    }
    // The cast is exact in this range.
    let whole = double.trunc() as i64;
    integer
        .cmp(&whole)
        .then_with(|| 0.0_f64.partial_cmp(&double.fract()).unwrap_or(Ordering::Equal))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn integer(number: i64) -> proto::Value {
        proto::Value { value_type: Some(ValueType::IntegerValue(number)) }
    }

    fn double(number: f64) -> proto::Value {
        proto::Value { value_type: Some(ValueType::DoubleValue(number)) }
    }

    #[test]
    fn integers_and_doubles_are_compared_exactly() {
        assert_eq!(compare(&integer(3), &double(3.0)), Ordering::Equal);
        assert_eq!(compare(&integer(i64::MAX), &double(i64::MAX as f64)), Ordering::Less);
        assert_eq!(compare(&integer(i64::MIN), &double(i64::MIN as f64)), Ordering::Equal);
        assert_eq!(compare(&integer(-3), &double(-3.5)), Ordering::Greater);
        assert_eq!(compare(&double(-0.0), &integer(0)), Ordering::Equal);
        assert_eq!(compare(&double(f64::NAN), &double(f64::NEG_INFINITY)), Ordering::Less);
    }

    #[test]
    fn null_and_nan_equal_nothing() {
        let null = proto::Value { value_type: Some(ValueType::NullValue(0)) };

        assert!(!equal(&null, &null));
        assert!(!equal(&double(f64::NAN), &double(f64::NAN)));
        assert!(equal(&integer(3), &double(3.0)));
    }

    #[test]
    fn names_are_compared_by_their_ids() {
        let mut found = ["c/b", "c/a-b", "c/a/x/y", "c/a", "c/__id10__", "c/__id9__"];

        found.sort_by(|left, right| names(left, right));

        assert_eq!(found, ["c/__id9__", "c/__id10__", "c/a", "c/a/x/y", "c/a-b", "c/b"]);
    }
}
