//! Models and LoRAs of the pool, by the names that clients have for them: a title, a file's name, or what is left of one
//! without its folder and its ending.

use std::collections::BTreeSet;

use crate::{
    contract::{ErrorCode, WorkerInfo},
    http::ApiError,
    queen::{ModelAlias, foreign::Foreign},
};

/// The most of a name that a message repeats, in characters.
const MAX_SHOWN: usize = 100;
/// The most names that a message lists.
const MAX_LISTED: usize = 50;
/// Endings of checkpoints and LoRAs.
const ENDINGS: [&str; 3] = [".safetensors", ".ckpt", ".pt"];

/// What there is, at one moment.
#[derive(Debug, Default)]
pub(super) struct Pool {
    /// Models, and other names of them; the first is that of jobs which name none.
    pub models: Vec<String>,
    /// LoRAs of all workers.
    pub loras: BTreeSet<String>,
}

impl Foreign {
    /// What workers and this queen say of models and LoRAs.
    pub(super) fn pool(&self) -> Pool {
        let known = self.queen.durable().map(|durable| durable.models.known()).unwrap_or_default();
        let aliases = &self.queen.shared.options.model_aliases;
        self.queen.shared.fleet.with_all(|workers| Pool::of(&known, workers, aliases))
    }
}

impl Pool {
    fn of(known: &[String], workers: &[&WorkerInfo], aliases: &[ModelAlias]) -> Self {
        let of_workers = workers.iter().flat_map(|worker| {
            let first = std::iter::once(&worker.model_id);
            first.chain(&worker.models)
        });
        let mut models: Vec<String> = vec![];
        for name in known.iter().chain(of_workers).chain(aliases.iter().map(|alias| &alias.name)) {
            if !models.contains(name) {
                models.push(name.clone());
            }
        }
        let loras =
            workers.iter().filter_map(|worker| worker.loras.as_ref()).flat_map(|loras| loras.names.clone());
        Self { models, loras: loras.collect() }
    }

    /// The model that a client means.
    ///
    /// # Errors
    /// `unsupported_model`, with what there is.
    pub fn model(&self, asked: &str) -> Result<String, ApiError> {
        match find(self.models.iter(), asked) {
            Some(found) => Ok(found.clone()),
            None => {
                let shown: String = asked.chars().take(MAX_SHOWN).collect();
                let listed: Vec<_> = self.models.iter().take(MAX_LISTED).map(String::as_str).collect();
                let there = if listed.is_empty() { "no worker is up".to_owned() } else { listed.join(", ") };
                let message = format!("`model`: the pool has no `{shown}`; there are: {there}");
                Err(ApiError::new(ErrorCode::UnsupportedModel, message))
            }
        }
    }

    /// The LoRA that a client means; a name that nobody knows is left as it is, to be refused by it.
    pub fn lora(&self, asked: &str) -> String {
        find(self.loras.iter(), asked).cloned().unwrap_or_else(|| asked.to_owned())
    }
}

/// The name itself, else the only one that is left when folders, endings and hashes are left out.
fn find<'a>(names: impl Iterator<Item = &'a String> + Clone, asked: &str) -> Option<&'a String> {
    let asked = asked.trim();
    if let Some(exact) = names.clone().find(|name| *name == asked) {
        return Some(exact);
    }
    for part in [whole, stem] {
        let mut alike = names.clone().filter(|name| part(name).eq_ignore_ascii_case(part(asked)));
        if let (Some(found), None) = (alike.next(), alike.next()) {
            return Some(found);
        }
    }
    None
}

/// Without ` [hash]` and ending.
fn whole(name: &str) -> &str {
    let name = match name.rsplit_once(" [") {
        Some((title, hash)) if hash.ends_with(']') => title,
        _ => name,
    };
    ENDINGS.iter().find_map(|ending| name.strip_suffix(ending)).unwrap_or(name)
}

/// Without folders, too.
fn stem(name: &str) -> &str {
    let name = whole(name);
    name.rsplit(['/', '\\']).next().unwrap_or(name)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::contract::WorkerLoras;

    fn pool() -> Pool {
        let worker = WorkerInfo {
            loras: Some(WorkerLoras { names: vec!["ink".into(), "styles/oil".into()], complete: true }),
            ..WorkerInfo::ready("w", &["tiny", "org/big", "a/x", "b/x"])
        };
        Pool::of(&["away".into(), "tiny".into()], &[&worker], &["dall-e-3=tiny".parse().unwrap()])
    }

    #[test]
    fn a_model_is_found_by_whatever_its_list_calls_it() {
        let pool = pool();
        assert_eq!(pool.models, ["away", "tiny", "org/big", "a/x", "b/x", "dall-e-3"]);
        for (asked, model) in [
            ("tiny", "tiny"),
            ("Tiny", "tiny"),
            ("tiny.safetensors", "tiny"),
            ("tiny.safetensors [d7f1a2]", "tiny"),
            ("models/tiny.ckpt", "tiny"),
            ("big", "org/big"),
            ("a/x", "a/x"),
            ("dall-e-3", "dall-e-3"),
        ] {
            assert_eq!(pool.model(asked).unwrap(), model, "{asked}");
        }
        for asked in ["nosuch", "x", "", &"y".repeat(5000)] {
            let error = pool.model(asked).unwrap_err();
            assert_eq!(error.status, 404);
            assert!(error.message.len() < 400 && error.message.contains("there are: away, tiny"), "{error}");
        }
    }

    #[test]
    fn a_lora_is_found_without_its_folder() {
        let pool = pool();
        for (asked, lora) in
            [("ink", "ink"), ("oil", "styles/oil"), ("styles/oil.safetensors", "styles/oil"), ("x", "x")]
        {
            assert_eq!(pool.lora(asked), lora);
        }
    }
}
