//! AutoencoderKL in the original layout (CompVis' latent diffusion; Black Forest Labs name it the same), or under diffusers'
//! names.

use std::sync::Arc;

use serde_json::{Value, json};

use super::{count, groups, put, shape};
use crate::diffusion::{
    DiffusionError,
    checkpoint::{ComponentFile, ConfigFile, Cut, MappedFile, Names, Under},
};

/// What its names begin with in a file, most often nothing where it is alone.
const PREFIXES: [&str; 3] = ["first_stage_model.", "vae.", ""];

/// The autoencoder of a file; `preset` is what its shapes do not tell.
///
/// # Errors
/// Tensors that have no shapes of one, and diffusers' names without the configuration beside them.
pub fn vae(
    file: &Arc<MappedFile>,
    given: Option<&ConfigFile>,
    preset: Value,
) -> Result<Option<ComponentFile>, DiffusionError> {
    let Some(prefix) = prefix(file) else { return Ok(None) };
    let is_diffusers = file.has(&format!("{prefix}decoder.mid_block.resnets.0.conv1.weight"));
    let config = match (given, is_diffusers) {
        (Some(given), _) => given.json(),
        (None, false) => configuration(file, prefix, preset)?,
        (None, true) => {
            return Err(DiffusionError::Config {
                file: file.path().to_owned(),
                key: "config.json".into(),
                expected: "a VAE in the original layout".into(),
                found: "one in the diffusers layout; name its folder, which has its configuration".into(),
            });
        }
    };
    let names: Arc<dyn Names> = match is_diffusers {
        true => Arc::new(Under(prefix)),
        false => Arc::new(Original { prefix, blocks: blocks(file, prefix) }),
    };
    Ok(Some(ComponentFile { file: file.clone(), names: Some(names), config }))
}

fn prefix(file: &MappedFile) -> Option<&'static str> {
    let names = file.names();
    let begins = |prefix: &str| names.iter().any(|name| name.starts_with(prefix));
    let has = |prefix: &str| {
        ["decoder.conv_in.weight", "encoder.conv_in.weight"]
            .iter()
            .any(|key| file.has(&format!("{prefix}{key}")))
    };
    PREFIXES
        .into_iter()
        .find(|prefix| has(prefix))
        .or_else(|| PREFIXES.into_iter().find(|prefix| !prefix.is_empty() && begins(prefix)))
}

/// How its tensors are named; up blocks are numbered from the picture inwards.
struct Original {
    prefix: &'static str,
    /// Blocks of the decoder.
    blocks: usize,
}

impl Names for Original {
    fn has(&self, name: &str) -> bool {
        // A file of a VAE alone may have the discriminator that it was trained with, and its averages.
        const PARTS: [&str; 4] = ["encoder.", "decoder.", "quant_conv.", "post_quant_conv."];
        name.strip_prefix(self.prefix).is_some_and(|name| PARTS.iter().any(|part| name.starts_with(part)))
    }

    fn original(&self, key: &str, _: &dyn Fn(&str) -> bool) -> (String, Cut) {
        original(key, self.prefix, self.blocks)
    }
}

fn blocks(file: &MappedFile, prefix: &str) -> usize {
    count(file, |i| format!("{prefix}encoder.down.{i}.block.0.conv1.weight"))
}

fn configuration(file: &MappedFile, prefix: &str, mut preset: Value) -> Result<Value, DiffusionError> {
    let blocks = blocks(file, prefix);
    let channels = (0..blocks)
        .map(|block| Ok(shape(file, &format!("{prefix}encoder.down.{block}.block.0.conv1.weight"), 4)?[0]))
        .collect::<Result<Vec<_>, DiffusionError>>()?;
    put(
        &mut preset,
        json!({
            "_class_name": "AutoencoderKL",
            "act_fn": "silu",
            "in_channels": shape(file, &format!("{prefix}encoder.conv_in.weight"), 4)?[1],
            "out_channels": shape(file, &format!("{prefix}decoder.conv_out.weight"), 4)?[0],
            "latent_channels": shape(file, &format!("{prefix}decoder.conv_in.weight"), 4)?[1],
            "block_out_channels": channels,
            "layers_per_block": count(file, |i| format!("{prefix}encoder.down.0.block.{i}.conv1.weight")),
            "down_block_types": vec!["DownEncoderBlock2D"; blocks],
            "up_block_types": vec!["UpDecoderBlock2D"; blocks],
            "norm_num_groups": groups(&channels),
            "use_quant_conv": file.has(&format!("{prefix}quant_conv.weight")),
            "use_post_quant_conv": file.has(&format!("{prefix}post_quant_conv.weight")),
        }),
    );
    Ok(preset)
}

/// A number in a name; none for what is no number or would overflow a count of blocks.
fn number(text: &str) -> Option<usize> {
    text.parse::<u16>().ok().map(usize::from)
}

fn original(key: &str, prefix: &str, blocks: usize) -> (String, Cut) {
    let parts: Vec<&str> = key.split('.').collect();
    let (place, cut) = vae_place(&parts, blocks).unwrap_or_else(|| (key.to_owned(), Cut::Whole));
    (format!("{prefix}{place}"), cut)
}

fn vae_place(parts: &[&str], blocks: usize) -> Option<(String, Cut)> {
    let [coder @ ("encoder" | "decoder"), parts @ ..] = parts else {
        return None;
    };
    let whole = |place: String| Some((format!("{coder}.{place}"), Cut::Whole));
    match parts {
        ["conv_norm_out", rest @ ..] => whole(format!("norm_out.{}", rest.join("."))),
        ["mid_block", "resnets", i, rest @ ..] => {
            whole(format!("mid.block_{}.{}", number(i)? + 1, vae_resnet(rest)))
        }
        ["mid_block", "attentions", "0", layer @ .., end] => {
            let (layer, part) = match layer {
                ["group_norm"] => ("norm", Cut::Whole),
                ["to_q"] => ("q", Cut::Matrix),
                ["to_k"] => ("k", Cut::Matrix),
                ["to_v"] => ("v", Cut::Matrix),
                ["to_out", "0"] => ("proj_out", Cut::Matrix),
                _ => return whole(format!("mid.attn_1.{}.{end}", layer.join("."))),
            };
            let part = if *end == "weight" { part } else { Cut::Whole };
            Some((format!("{coder}.mid.attn_1.{layer}.{end}"), part))
        }
        ["down_blocks", block, "downsamplers", "0", rest @ ..] => {
            whole(format!("down.{}.downsample.{}", number(block)?, rest.join(".")))
        }
        ["up_blocks", block, "upsamplers", "0", rest @ ..] => {
            whole(format!("up.{}.upsample.{}", mirrored(block, blocks)?, rest.join(".")))
        }
        ["down_blocks", block, "resnets", i, rest @ ..] => {
            whole(format!("down.{}.block.{}.{}", number(block)?, number(i)?, vae_resnet(rest)))
        }
        ["up_blocks", block, "resnets", i, rest @ ..] => {
            whole(format!("up.{}.block.{}.{}", mirrored(block, blocks)?, number(i)?, vae_resnet(rest)))
        }
        _ => None,
    }
}

fn mirrored(block: &str, blocks: usize) -> Option<usize> {
    blocks.checked_sub(1)?.checked_sub(number(block)?)
}

fn vae_resnet(rest: &[&str]) -> String {
    rest.join(".").replace("conv_shortcut", "nin_shortcut")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn up_blocks_of_the_autoencoder_are_counted_from_the_other_end() {
        let (key, _) = original("decoder.up_blocks.0.resnets.2.conv_shortcut.bias", "first_stage_model.", 4);
        assert_eq!(key, "first_stage_model.decoder.up.3.block.2.nin_shortcut.bias");
        let (key, part) = original("encoder.mid_block.attentions.0.to_out.0.weight", "", 4);
        assert_eq!((key.as_str(), part), ("encoder.mid.attn_1.proj_out.weight", Cut::Matrix));
    }

    #[test]
    fn a_name_with_hostile_numbers_stays_a_name() {
        let (key, _) = original("decoder.up_blocks.7.resnets.0.x", "vae.", 2);
        assert!(key.ends_with("decoder.up_blocks.7.resnets.0.x"));
    }

    #[test]
    fn what_a_vae_was_trained_with_is_no_part_of_it() {
        let names = Original { prefix: "", blocks: 4 };
        assert!(names.has("encoder.conv_in.weight") && names.has("post_quant_conv.bias"));
        assert!(!names.has("loss.discriminator.main.0.weight") && !names.has("model_ema.decay"));
    }
}
