//! Other names of models: tools that cannot be told a model's name ask for the one that is built into them.

use std::str::FromStr;

use crate::contract::Operation;

/// A name and the model that is meant by it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ModelAlias {
    /// What clients ask for.
    pub name: String,
    /// What the pool has.
    pub model: String,
}

impl FromStr for ModelAlias {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text.split_once('=').map(|(name, model)| (name.trim(), model.trim())) {
            Some((name, model)) if !name.is_empty() && !model.is_empty() => {
                Ok(Self { name: name.to_owned(), model: model.to_owned() })
            }
            _ => Err("NAME=MODEL is expected".into()),
        }
    }
}

/// Names the model in place of its other name. A name is looked up once: what it stands for is a model's own name.
pub(super) fn resolve(aliases: &[ModelAlias], operation: &mut Operation) {
    let Some(named) = operation.model() else { return };
    if let Some(alias) = aliases.iter().find(|alias| alias.name == named) {
        operation.set_model(&alias.model);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_is_the_model_that_it_stands_for_and_no_other_name_is_changed() {
        let aliases = ["dall-e-3=tiny", " gpt-image-1 = org/model=x "].map(|text| text.parse().unwrap());
        let model = |name: &str| {
            let body = serde_json::json!({"operation": "image_generation", "prompt": "a", "model": name});
            let mut operation = Operation::parse(None, body.to_string().as_bytes()).unwrap();
            resolve(&aliases, &mut operation);
            operation.model().map(str::to_owned)
        };
        assert_eq!(model("dall-e-3").as_deref(), Some("tiny"));
        assert_eq!(model("gpt-image-1").as_deref(), Some("org/model=x"));
        assert_eq!(model("tiny").as_deref(), Some("tiny"));
        assert_eq!(model("gpt-image-2").as_deref(), Some("gpt-image-2"), "it is refused by its own name");
        assert_eq!(model(""), None);
    }

    #[test]
    fn an_alias_is_a_name_and_a_model() {
        for bad in ["", "a", "=m", "a=", " = "] {
            assert!(bad.parse::<ModelAlias>().is_err(), "{bad:?}");
        }
    }
}
