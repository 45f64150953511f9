//! Finds, sets and removes fields of a document by path.

use std::collections::HashMap;

use prost_types::Timestamp;
use proto::value::ValueType;

use super::time::Time;
use super::{names, proto};
use crate::status::Status;

pub(super) type Fields = HashMap<String, proto::Value>;

/// Most levels of nested maps and arrays, from
/// <https://cloud.google.com/firestore/quotas#collections_documents_and_fields>.
const MAX_DEPTH: usize = 20;

/// Returns a document with only the fields of a mask.
pub(super) fn masked(
    document: &proto::Document,
    mask: Option<&proto::DocumentMask>,
) -> Result<proto::Document, Status> {
    let Some(mask) = mask else { return Ok(document.clone()) };
    let mut shown = without_fields(document);
    for path in mask.field_paths.iter().filter(|path| *path != names::NAME) {
        copy(document, &mut shown, &names::field_path(path)?);
    }
    Ok(shown)
}

/// Returns a document with only its name and times.
pub(super) fn without_fields(document: &proto::Document) -> proto::Document {
    proto::Document {
        name: document.name.clone(),
        fields: HashMap::new(),
        create_time: document.create_time,
        update_time: document.update_time,
    }
}

/// Copies the value at a path, if there is one.
pub(super) fn copy(from: &proto::Document, to: &mut proto::Document, path: &[String]) {
    if let Some(value) = find(&from.fields, path) {
        set(&mut to.fields, path, value.clone());
    }
}

/// Returns the value at a path.
pub(super) fn find<'a>(fields: &'a Fields, path: &[String]) -> Option<&'a proto::Value> {
    let (first, rest) = path.split_first()?;
    let value = fields.get(first)?;
    match (&value.value_type, rest) {
        (_, []) => Some(value),
        (Some(ValueType::MapValue(map)), rest) => find(&map.fields, rest),
        _ => None,
    }
}

/// Sets the value at a path. A value on the path that is not a map becomes one.
pub(super) fn set(fields: &mut Fields, path: &[String], value: proto::Value) {
    let Some((first, rest)) = path.split_first() else { return };
    if rest.is_empty() {
        fields.insert(first.clone(), value);
        return;
    }
    let inner = fields.entry(first.clone()).or_default();
    if !matches!(inner.value_type, Some(ValueType::MapValue(_))) {
        inner.value_type = Some(ValueType::MapValue(proto::MapValue::default()));
    }
    if let Some(ValueType::MapValue(map)) = &mut inner.value_type {
        set(&mut map.fields, rest, value);
    }
}

/// Refuses a path that is deeper than a document can be.
pub(super) fn check_path(path: &[String]) -> Result<(), Status> {
    check_depth(path.len().saturating_sub(1))
}

fn check_depth(depth: usize) -> Result<(), Status> {
    if depth <= MAX_DEPTH {
        return Ok(());
    }
    Err(Status::invalid(format!("Maps and arrays lie at most {MAX_DEPTH} levels deep.")))
}

/// Removes the value at a path.
pub(super) fn remove(fields: &mut Fields, path: &[String]) {
    match path {
        [] => {}
        [last] => drop(fields.remove(last)),
        [first, rest @ ..] => {
            let inner = fields.get_mut(first).and_then(|value| value.value_type.as_mut());
            if let Some(ValueType::MapValue(map)) = inner {
                remove(&mut map.fields, rest);
            }
        }
    }
}

/// Converts fields to the form in which Firestore stores them.
///
/// # Errors
/// Fails for names and values that Firestore cannot store, and for too many levels of maps and
/// arrays.
pub(super) fn normalize(fields: &mut Fields) -> Result<(), Status> {
    if let Some(name) = fields.keys().find(|name| names::is_reserved(name)) {
        return Err(Status::invalid(format!("field name {name} is reserved")));
    }
    normalize_map(fields, 0)
}

/// Normalizes the fields of a map that is `depth` levels below the document.
fn normalize_map(fields: &mut Fields, depth: usize) -> Result<(), Status> {
    check_depth(depth)?;
    if fields.contains_key("") {
        return Err(Status::invalid("The property.name is the empty string."));
    }
    fields.values_mut().try_for_each(|value| normalize_value(value, depth))
}

fn normalize_value(value: &mut proto::Value, depth: usize) -> Result<(), Status> {
    match &mut value.value_type {
        Some(ValueType::MapValue(map)) => normalize_map(&mut map.fields, depth + 1),
        Some(ValueType::ArrayValue(array)) => {
            check_depth(depth + 1)?;
            array.values.iter_mut().try_for_each(|value| {
                if matches!(value.value_type, Some(ValueType::ArrayValue(_))) {
                    let text = "Cannot convert an array value in an array value.";
                    return Err(Status::invalid(text));
                }
                normalize_value(value, depth + 1)
            })
        }
        Some(ValueType::TimestampValue(time)) => {
            *time = Timestamp::from(Time::of(time));
            Ok(())
        }
        Some(
            ValueType::FieldReferenceValue(_)
            | ValueType::VariableReferenceValue(_)
            | ValueType::FunctionValue(_)
            | ValueType::PipelineValue(_),
        ) => Err(Status::invalid("A document cannot hold parts of pipelines.")),
        // These values stay unchanged.
        Some(
            ValueType::NullValue(_)
            | ValueType::BooleanValue(_)
            | ValueType::IntegerValue(_)
            | ValueType::DoubleValue(_)
            | ValueType::StringValue(_)
            | ValueType::BytesValue(_)
            | ValueType::ReferenceValue(_)
            | ValueType::GeoPointValue(_),
        ) => Ok(()),
        None => Err(Status::invalid("A value must have a type.")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Returns a value inside of `depth` maps.
    fn nested(depth: usize) -> Fields {
        let innermost = proto::Value { value_type: Some(ValueType::IntegerValue(1)) };
        let value = (0..depth).fold(innermost, |value, _| {
            let fields = Fields::from([("a".to_owned(), value)]);
            proto::Value { value_type: Some(ValueType::MapValue(proto::MapValue { fields })) }
        });
        Fields::from([("a".to_owned(), value)])
    }

    #[test]
    fn a_document_has_at_most_twenty_levels() {
        assert!(normalize(&mut nested(20)).is_ok());
        assert!(normalize(&mut nested(21)).is_err());
    }
}
