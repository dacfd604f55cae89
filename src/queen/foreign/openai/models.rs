//! GET /v1/models: what jobs may ask for, in OpenAI's form, with what there is to know of each beside it.

use std::collections::{BTreeMap, BTreeSet};

use axum::{
    Json,
    extract::{Path, State, rejection::PathRejection},
};
use serde_json::{Value, json};

use crate::{
    contract::{ErrorCode, WorkerInfo},
    http::ApiError,
    queen::{ModelAlias, foreign::Foreign},
};

/// Who has the models, as the form wants to know.
const OWNER: &str = "sd-worker-rbee";
/// The most of a name that a message repeats, in characters.
const MAX_SHOWN: usize = 100;

/// What workers say of a model.
#[derive(Debug, Default)]
struct Model {
    native: Option<(u32, u32)>,
    license: Option<String>,
    title: Option<String>,
    resolution: Option<String>,
    schedulers: BTreeSet<String>,
    loras: BTreeSet<String>,
    capabilities: BTreeSet<String>,
    /// Workers that have it.
    workers: u32,
}

/// Every model and every other name of one.
pub(super) async fn list(State(foreign): State<Foreign>) -> Json<Value> {
    Json(json!({"object": "list", "data": foreign.models()}))
}

/// One of them.
pub(super) async fn one(
    State(foreign): State<Foreign>,
    id: Result<Path<String>, PathRejection>,
) -> Result<Json<Value>, ApiError> {
    let refuse = |name: &str| {
        let shown: String = name.chars().take(MAX_SHOWN).collect();
        ApiError::new(
            ErrorCode::UnsupportedModel,
            format!("`model`: there is no `{shown}`; GET /v1/models lists all"),
        )
    };
    let Ok(Path(id)) = id else { return Err(refuse("")) };
    foreign.models().into_iter().find(|model| model["id"] == *id).map(Json).ok_or_else(|| refuse(&id))
}

impl Foreign {
    fn models(&self) -> Vec<Value> {
        let known = self.queen.durable().map(|durable| durable.models.known()).unwrap_or_default();
        let models = self.queen.shared.fleet.with_all(|workers| collected(&known, workers));
        entries(&models, &self.queen.shared.options.model_aliases, self.started)
    }
}

/// The models that jobs may ask for, those without a worker too where jobs wait for one.
fn collected(known: &[String], workers: &[&WorkerInfo]) -> BTreeMap<String, Model> {
    let mut models: BTreeMap<String, Model> =
        known.iter().map(|name| (name.clone(), Model::default())).collect();
    for worker in workers {
        for name in &worker.models {
            let model = models.entry(name.clone()).or_default();
            model.workers += 1;
            model.native = model.native.or_else(|| worker.native_sizes.get(name).copied());
            model.license = model.license.take().or_else(|| worker.licenses.get(name).cloned());
            model.title = model.title.take().or_else(|| worker.titles.get(name).cloned());
            model.resolution = model.resolution.take().or_else(|| worker.resolutions.get(name).cloned());
            model.schedulers.extend(worker.schedulers.iter().cloned());
            model.loras.extend(worker.loras.iter().flat_map(|loras| loras.names.iter().cloned()));
            model.capabilities.extend(worker.capabilities.iter().map(|can| can.operation().to_owned()));
        }
    }
    models
}

fn entries(models: &BTreeMap<String, Model>, aliases: &[ModelAlias], created: u64) -> Vec<Value> {
    let entry = |id: &str, model: &Model, alias_of: Option<&str>| {
        let (width, height) = model.native.unzip();
        json!({
            "id": id, "object": "model", "created": created, "owned_by": OWNER,
            "license": model.license, "title": model.title, "resolution": model.resolution, "native_width": width, "native_height": height, "schedulers": model.schedulers, "loras": model.loras,
            "capabilities": model.capabilities, "workers": model.workers, "alias_of": alias_of,
        })
    };
    let is_alias = |name: &str| aliases.iter().any(|alias| alias.name == name);
    let own = models.iter().filter(|(name, _)| !is_alias(name)).map(|(name, model)| entry(name, model, None));
    let mut named = BTreeSet::new();
    let others = aliases.iter().filter(|alias| named.insert(&alias.name)).map(|alias| {
        let nothing = Model::default();
        let model = models.get(&alias.model).unwrap_or(&nothing);
        entry(&alias.name, model, Some(&alias.model))
    });
    own.chain(others).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::contract::WorkerLoras;

    #[test]
    fn a_model_has_what_its_workers_say_and_an_alias_what_its_model_has() {
        let worker = |id: &str, models: &[&str], lora: &str| WorkerInfo {
            native_sizes: [(models[0].to_owned(), (512, 768))].into(),
            licenses: [("tiny".to_owned(), "mit".to_owned())].into(),
            titles: [("tiny".to_owned(), "Tiny Shapes".to_owned())].into(),
            resolutions: [("tiny".to_owned(), "512x768".to_owned())].into(),
            schedulers: vec!["euler".into()],
            loras: Some(WorkerLoras { names: vec![lora.into()], complete: true }),
            ..WorkerInfo::ready(id, models)
        };
        let (a, b) = (worker("a", &["tiny", "org/big"], "ink"), worker("b", &["tiny"], "oil"));
        let models = collected(&["tiny".into(), "away".into()], &[&a, &b]);
        let aliases = ["dall-e-3=tiny", "gone=nosuch", "dall-e-3=away"].map(|text| text.parse().unwrap());
        let entries = entries(&models, &aliases, 7);
        let ids: Vec<_> = entries.iter().map(|entry| entry["id"].as_str().unwrap()).collect();
        assert_eq!(ids, ["away", "org/big", "tiny", "dall-e-3", "gone"]);
        assert_eq!(
            entries[2],
            json!({
                "id": "tiny", "object": "model", "created": 7, "owned_by": OWNER, "license": "mit",
                "title": "Tiny Shapes", "resolution": "512x768", "native_width": 512, "native_height": 768,
                "schedulers": ["euler"], "loras": ["ink", "oil"], "capabilities": ["image_generation"], "workers": 2,
                "alias_of": null,
            })
        );
        assert_eq!((&entries[3]["alias_of"], &entries[3]["workers"]), (&json!("tiny"), &json!(2)));
        assert_eq!((&entries[0]["workers"], &entries[0]["native_width"]), (&json!(0), &Value::Null));
        assert_eq!(entries[4]["workers"], 0, "its model may come");
    }
}
