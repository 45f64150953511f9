//! JSON Schema of settings, for editors.

use schemars::Schema;
use schemars::generate::SchemaSettings;
use schemars::transform::{Transform, transform_subschemas};
use serde_json::Value;

use crate::settings::{self, Settings};

/// Marks every section as closed to unknown keys. Such keys are refused when settings are read, so
/// an editor must refuse them too.
#[derive(Clone)]
struct Closed;

impl Transform for Closed {
    fn transform(&mut self, schema: &mut Schema) {
        if schema.get("properties").is_some() && schema.get("additionalProperties").is_none() {
            schema.insert("additionalProperties".into(), false.into());
        }
        transform_subschemas(self, schema);
    }
}

/// Returns the schema of these settings.
pub(crate) fn of<T: Settings>() -> Value {
    // Editors support this draft best.
    let generator = SchemaSettings::draft07().with_transform(Closed);
    let mut schema = generator.into_generator().into_root_schema_for::<T>().to_value();
    // The keys of a part come with the defaults of the part, which may not be those of the service.
    let defaults = settings::to_value(&T::default()).unwrap_or_default();
    for (name, default) in defaults.as_object().into_iter().flatten() {
        schema["properties"][name]["default"] = default.clone();
    }
    schema
}
