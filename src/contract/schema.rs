//! The JSON Schemas (draft 2020-12) of everything that travels, generated from the types.

use schemars::{Schema, schema_for};
use serde_json::{Value, json};

use super::{
    Command, DeadLetters, ErrorBody, Event, Health, JobList, JobResponse, JobView, Operation, Queued,
    WebhookBody, WorkerInfo, Workers,
};

/// File name in `schemas/`, and the schema.
pub fn all() -> Vec<(&'static str, Schema)> {
    vec![
        ("operation.json", schema_for!(Operation)),
        ("event.json", schema_for!(Event)),
        ("queued.json", schema_for!(Queued)),
        ("job_list.json", schema_for!(JobList)),
        ("job_response.json", schema_for!(JobResponse)),
        ("job_view.json", schema_for!(JobView)),
        ("worker_info.json", schema_for!(WorkerInfo)),
        ("workers.json", schema_for!(Workers)),
        ("control.json", schema_for!(Command)),
        ("health.json", schema_for!(Health)),
        ("dead_letters.json", schema_for!(DeadLetters)),
        ("error.json", schema_for!(ErrorBody)),
        ("webhook.json", schema_for!(WebhookBody)),
    ]
}

/// `input_image` is another name of `init_image`: either is there, not both.
pub(super) fn allow_input_image(schema: &mut Schema) {
    let Some(properties) = schema.get_mut("properties").and_then(Value::as_object_mut) else { return };
    let Some(image) = properties.get("init_image").cloned() else { return };
    properties.insert("input_image".into(), image);
    if let Some(required) = schema.get_mut("required").and_then(Value::as_array_mut) {
        required.retain(|field| field != "init_image");
    }
    schema.insert("oneOf".into(), json!([{"required": ["init_image"]}, {"required": ["input_image"]}]));
}

/// A mask is a picture, or made of what is pointed at.
pub(super) fn ask_for_a_mask(schema: &mut Schema) {
    let alone = json!({"required": ["mask_image"], "properties": {
        "mask_image": {"type": "string"}, "mask_points": {"type": "null"}, "mask_labels": {"type": "null"},
        "mask_box": {"type": "null"},
    }});
    let pointed = |field: &str, kind: &str| json!({"required": [field], "properties": {(field): {"type": kind}, "mask_image": {"type": "null"}}});
    let ways = json!([alone, pointed("mask_points", "array"), pointed("mask_box", "array")]);
    schema.insert("anyOf".into(), ways);
}

/// The `type` of a struct is on the wire, and not among its fields.
pub(super) fn tag_queued(schema: &mut Schema) {
    if let Some(properties) = schema.get_mut("properties").and_then(Value::as_object_mut) {
        properties.insert("type".into(), json!({"type": "string", "const": "queued"}));
    }
    if let Some(required) = schema.get_mut("required").and_then(Value::as_array_mut) {
        required.insert(0, json!("type"));
    }
}

/// The text of a schema's file.
pub fn to_text(schema: &Schema) -> String {
    let mut text = serde_json::to_string_pretty(schema).expect("a schema is JSON");
    text.push('\n');
    text
}
