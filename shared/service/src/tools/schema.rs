//! JSON Schema of settings, for editors.

use schemars::Schema;
use schemars::generate::SchemaSettings;
use schemars::transform::{Transform, transform_subschemas};
use serde_json::Value;

use crate::Settings;

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
    let settings = SchemaSettings::draft07().with_transform(Closed);
    settings.into_generator().into_root_schema_for::<T>().to_value()
}
