//! The alphas that diffusers writes into a file's header: peft's configuration of each component.

use serde_json::{Map, Value};

/// What the header says; keys are `<component>.<setting>`.
#[derive(Debug, Clone, Default)]
pub struct Alphas(Map<String, Value>);

impl Alphas {
    /// The header's key.
    pub const NOTE: &str = "lora_adapter_metadata";

    /// Reads the header's value; none, or one that is no object, says nothing.
    pub fn read(note: Option<&str>) -> Self {
        Self(note.and_then(|note| serde_json::from_str(note).ok()).unwrap_or_default())
    }

    /// The scale of a layer of a component that has no alpha of its own: alpha by rank, or by the rank's root where the
    /// adapter was trained so (rsLoRA, arXiv 2312.03732). `layer` is its name in the file, with the component or without.
    pub fn scale(&self, component: &str, layer: &str, rank: usize) -> f64 {
        let layer = layer.strip_prefix(component).and_then(|rest| rest.strip_prefix('.')).unwrap_or(layer);
        let setting = |name: &str| self.0.get(&format!("{component}.{name}"));
        let of_layer = setting("alpha_pattern").and_then(Value::as_object).and_then(|alphas| {
            let fits = |name: &str| layer == name || layer.ends_with(&format!(".{name}"));
            alphas.iter().find(|(name, _)| fits(name)).map(|(_, alpha)| alpha)
        });
        let rank = rank as f64;
        let rooted = setting("use_rslora").and_then(Value::as_bool).unwrap_or(false);
        match of_layer.or(setting("lora_alpha")).and_then(Value::as_f64) {
            Some(alpha) => alpha / if rooted { rank.sqrt() } else { rank },
            None => 1.0,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn alpha_is_the_layer_s_own_or_the_component_s_or_the_rank() {
        let alphas = Alphas::read(Some(
            r#"{"unet.lora_alpha": 8, "unet.alpha_pattern": {"attn1.to_q": 2}, "text_encoder.lora_alpha": 4,
                "text_encoder.use_rslora": true}"#,
        ));
        assert_eq!(alphas.scale("unet", "unet.mid_block.attn1.to_k", 4), 2.0);
        assert_eq!(alphas.scale("unet", "unet.mid_block.attn1.to_q", 4), 0.5);
        assert_eq!(alphas.scale("unet", "mid_block.attn1.to_q", 4), 0.5);
        assert_eq!(alphas.scale("text_encoder", "text_encoder.encoder.fc1", 4), 2.0);
        assert_eq!(alphas.scale("text_encoder_2", "text_encoder_2.encoder.fc1", 4), 1.0);
        assert_eq!(Alphas::read(Some("[1]")).scale("unet", "unet.conv_in", 4), 1.0);
    }
}
