//! The OpenAPI document (3.1) of a list of endpoints.

use std::borrow::Cow;

use axum::http::StatusCode;
use schemars::{SchemaGenerator, generate::SchemaSettings};
use serde_json::{Map, Value, json};

use super::endpoint::{Answer, Description, Endpoints, JSON, Kind, SchemaOf};

/// What a document says beside its endpoints.
pub struct About {
    /// The program.
    pub title: &'static str,
    /// What it is, and what holds for every endpoint, in Markdown.
    pub description: &'static str,
    /// What it sends by itself: the name of each, what it is, and the schema of its body.
    pub webhooks: &'static [(&'static str, &'static str, SchemaOf)],
}

/// The document.
pub fn document<S: Clone + Send + Sync + 'static>(about: &About, groups: &[Endpoints<S>]) -> Value {
    let settings = SchemaSettings::draft2020_12().with(|settings| {
        settings.definitions_path = Cow::Borrowed("/components/schemas");
        settings.meta_schema = None;
    });
    let mut document = Document { generator: settings.into_generator(), paths: Map::new() };
    for group in groups {
        for said in group.said() {
            let operation = document.operation(&group.kind, &said.description);
            // A catch-all is a part of the path to OpenAPI like any other.
            let path = said.path.replace("{*", "{");
            let path = document.paths.entry(path).or_insert_with(|| json!({}));
            path[said.method.as_str().to_ascii_lowercase()] = operation;
        }
    }
    let webhooks: Map<String, Value> = about
        .webhooks
        .iter()
        .map(|(name, says, body)| ((*name).to_owned(), json!({"post": document.webhook(says, *body)})))
        .collect();
    let mut kinds: Vec<_> = groups.iter().map(|group| json!({"name": group.kind.name})).collect();
    kinds.dedup();
    json!({
        "openapi": "3.1.0",
        "info": {
            "title": about.title, "version": env!("CARGO_PKG_VERSION"), "description": about.description,
            "license": {"name": env!("CARGO_PKG_LICENSE"), "identifier": env!("CARGO_PKG_LICENSE")},
        },
        // Where the document was read from.
        "servers": [{"url": "/"}],
        "tags": kinds,
        "security": [{"bearer": []}, {"basic": []}, {}],
        "paths": document.paths,
        "webhooks": webhooks,
        "components": {
            "schemas": document.generator.take_definitions(true),
            "securitySchemes": {
                "bearer": {"type": "http", "scheme": "bearer", "description": "A token of the file that --token-file names."},
                "basic": {"type": "http", "scheme": "basic", "description": "The token as the password, with any name."},
            },
        },
    })
}

struct Document {
    generator: SchemaGenerator,
    paths: Map<String, Value>,
}

impl Document {
    fn content(&mut self, content: &[(&'static str, SchemaOf)]) -> Value {
        let of = |(media, schema): &(&'static str, SchemaOf)| {
            ((*media).to_owned(), json!({"schema": schema(&mut self.generator)}))
        };
        Value::Object(content.iter().map(of).collect())
    }

    fn operation(&mut self, kind: &Kind, description: &Description) -> Value {
        let mut operation = json!({
            "operationId": description.id, "summary": description.summary, "tags": [kind.name],
            "responses": self.responses(kind, description),
        });
        let parameters: Vec<_> = description
            .parameters
            .iter()
            .map(|parameter| {
                json!({
                    "name": parameter.name, "in": parameter.place, "required": parameter.place == "path",
                    "description": parameter.says, "schema": (parameter.schema)(&mut self.generator),
                })
            })
            .collect();
        if !parameters.is_empty() {
            operation["parameters"] = json!(parameters);
        }
        if !description.bodies.is_empty() {
            operation["requestBody"] =
                json!({"required": true, "content": self.content(&description.bodies)});
        }
        if description.is_for_all {
            operation["security"] = json!([]);
        }
        operation
    }

    fn responses(&mut self, kind: &Kind, description: &Description) -> Value {
        let mut responses = Map::new();
        for Answer { status, says, content } in &description.answers {
            let mut response = json!({"description": says});
            if !content.is_empty() {
                response["content"] = self.content(content);
            }
            responses.insert(status.to_string(), response);
        }
        let error = self.content(&[(JSON, kind.error)]);
        for status in description.errors {
            let reason = StatusCode::from_u16(*status).ok().and_then(|status| status.canonical_reason());
            let response = json!({"description": reason.unwrap_or("error"), "content": error});
            responses.insert(status.to_string(), response);
        }
        responses.insert("default".into(), json!({"description": "what is wrong", "content": error}));
        Value::Object(responses)
    }

    fn webhook(&mut self, says: &str, body: SchemaOf) -> Value {
        json!({
            "summary": says,
            "requestBody": {"required": true, "content": self.content(&[(JSON, body)])},
            "responses": {"2XX": {"description": "it has come; anything else is tried again"}},
        })
    }
}
