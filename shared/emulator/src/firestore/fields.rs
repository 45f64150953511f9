//! Fields of a document: found, set and removed by path.

use std::collections::HashMap;

use prost_types::Timestamp;
use proto::value::ValueType;

use super::store::Time;
use super::{names, proto};
use crate::status::Status;

pub(super) type Fields = HashMap<String, proto::Value>;

/// Returns the document with the fields that a mask leaves.
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

/// Returns name and times of a document.
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

/// Puts a value at a path; what is no map on the way becomes one.
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

/// Brings given fields into the form in which Firestore keeps them.
///
/// # Errors
/// When Firestore cannot hold a name or a value.
pub(super) fn normalize(fields: &mut Fields) -> Result<(), Status> {
    if let Some(name) = fields.keys().find(|name| names::is_reserved(name)) {
        return Err(Status::invalid(format!("field name {name} is reserved")));
    }
    normalize_map(fields)
}

fn normalize_map(fields: &mut Fields) -> Result<(), Status> {
    if fields.contains_key("") {
        return Err(Status::invalid("The property.name is the empty string."));
    }
    fields.values_mut().try_for_each(normalize_value)
}

fn normalize_value(value: &mut proto::Value) -> Result<(), Status> {
    match &mut value.value_type {
        Some(ValueType::MapValue(map)) => normalize_map(&mut map.fields),
        Some(ValueType::ArrayValue(array)) => array.values.iter_mut().try_for_each(|value| {
            if matches!(value.value_type, Some(ValueType::ArrayValue(_))) {
                return Err(Status::invalid("Cannot convert an array value in an array value."));
            }
            normalize_value(value)
        }),
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
        // As they are given.
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
