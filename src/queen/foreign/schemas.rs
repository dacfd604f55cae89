//! Schemas of what other APIs send and read. A field that is one of a job's is said as the job's is: its bounds are written once.

use schemars::{Schema, SchemaGenerator, json_schema};
use serde_json::{Map, Value, json};

use crate::{
    contract::{Capability, Operation},
    http::endpoint::of,
};

/// A list.
pub(super) fn array(_: &mut SchemaGenerator) -> Schema {
    json_schema!({"type": "array"})
}

/// An object.
pub(super) fn object(_: &mut SchemaGenerator) -> Schema {
    json_schema!({"type": "object"})
}

/// Whatever it is.
pub(super) fn anything(_: &mut SchemaGenerator) -> Schema {
    json_schema!({})
}

/// A schema that is written once, under a name, and referred to.
pub(super) fn named(generator: &mut SchemaGenerator, name: &str, schema: Schema) -> Schema {
    generator.definitions_mut().insert(name.to_owned(), schema.into());
    Schema::new_ref(format!("#{}/{name}", generator.settings().definitions_path))
}

/// A text, and what it is.
pub(super) fn text_of(says: &str) -> Value {
    json!({"type": "string", "description": says})
}

/// The fields of a request.
pub(super) struct RequestSchema {
    /// Those of such a job.
    of_job: Map<String, Value>,
    said: Map<String, Value>,
}

impl RequestSchema {
    /// None yet, of a request that becomes a job of this capability.
    pub fn of(capability: Capability, generator: &mut SchemaGenerator) -> Self {
        of::<Operation>(generator);
        let operation = generator.definitions().get("Operation").cloned().unwrap_or_default();
        let variants = operation["oneOf"].as_array().cloned().unwrap_or_default();
        let is_it = |variant: &Value| variant["properties"]["operation"]["const"] == capability.operation();
        let variant = variants.into_iter().find(is_it).unwrap_or_default();
        let of_job = variant["properties"].as_object().cloned().unwrap_or_default();
        Self { of_job, said: Map::new() }
    }

    /// A field that is said here.
    pub fn with(mut self, name: &str, schema: Value) -> Self {
        self.said.insert(name.to_owned(), schema);
        self
    }

    /// A field of a job, by another name; one that such a job does not have is left out.
    pub fn of_job(mut self, name: &str, ours: &str) -> Self {
        if let Some(schema) = self.of_job.get(ours) {
            self.said.insert(name.to_owned(), schema.clone());
        }
        self
    }

    /// The schema, under a name. Fields that are not among these are taken, and listed in a header.
    pub fn done(self, generator: &mut SchemaGenerator, name: &str, required: &[&str]) -> Schema {
        let schema = json_schema!({"type": "object", "properties": self.said, "required": required});
        named(generator, name, schema)
    }
}

/// The names of the fields of a schema, each with nothing as its value.
#[cfg(test)]
pub(super) fn properties(name: &str, schema: crate::http::endpoint::SchemaOf) -> Map<String, Value> {
    let mut generator = SchemaGenerator::default();
    schema(&mut generator);
    let properties = generator.definitions()[name]["properties"].as_object().expect("an object has fields");
    assert!(properties.len() > 8, "{properties:?}");
    properties.keys().map(|name| (name.clone(), Value::Null)).collect()
}
