//! diffusers' names of tensors to those of the original layout (CompVis' Stable Diffusion 1, Stability's 2 and XL).
//!
//! Both name the same networks; the pairs are those of diffusers' `loaders/single_file_utils.py`.

use super::UNET;
use crate::diffusion::checkpoint::{Cut, Names};

/// How the tensors of one component are named in the file.
#[derive(Debug, Clone)]
pub enum OriginalNames {
    /// `model.diffusion_model.`; blocks are numbered through, `layers` residual layers and a sampler to each.
    UNet {
        /// Residual layers of a down block.
        layers: usize,
    },
    /// The autoencoder; up blocks are numbered from the picture inwards.
    Vae {
        /// `first_stage_model.` or `vae.`.
        prefix: &'static str,
        /// Blocks of the decoder.
        blocks: usize,
    },
    /// transformers' CLIPTextModel under a prefix.
    Clip {
        /// Ends in a dot.
        prefix: &'static str,
    },
    /// OpenCLIP's text tower under a prefix.
    OpenClip {
        /// Ends in a dot.
        prefix: &'static str,
    },
}

impl Names for OriginalNames {
    fn prefix(&self) -> &str {
        match self {
            Self::UNet { .. } => UNET,
            Self::Vae { prefix, .. } | Self::Clip { prefix } | Self::OpenClip { prefix } => prefix,
        }
    }

    fn original(&self, key: &str, has: &dyn Fn(&str) -> bool) -> (String, Cut) {
        match self {
            Self::UNet { layers } => (unet(key, *layers, has), Cut::Whole),
            Self::Vae { prefix, blocks } => vae(key, prefix, *blocks),
            Self::Clip { prefix } => (clip(key, prefix, has), Cut::Whole),
            Self::OpenClip { prefix } => open_clip(key, prefix),
        }
    }
}

/// What the original layout calls the layer of a UNet that diffusers calls `layer`; none where there is no such name.
/// `layers` are the residual layers of a down block; `attention`: the block of an upsampler has attention.
pub fn original_unet_name(layer: &str, layers: usize, attention: bool) -> Option<String> {
    let key = format!("{layer}.weight");
    let place = unet_place(&key.split('.').collect::<Vec<_>>(), layers, &|_| attention)?;
    place.strip_suffix(".weight").map(str::to_owned)
}

/// A number in a name; none for what is no number or would overflow a count of blocks.
fn number(text: &str) -> Option<usize> {
    text.parse::<u16>().ok().map(usize::from)
}

fn unet(key: &str, layers: usize, has: &dyn Fn(&str) -> bool) -> String {
    let parts: Vec<&str> = key.split('.').collect();
    let place = unet_place(&parts, layers, has).unwrap_or_else(|| key.to_owned());
    format!("{UNET}{place}")
}

fn unet_place(parts: &[&str], layers: usize, has: &dyn Fn(&str) -> bool) -> Option<String> {
    let stride = layers + 1;
    let joined = |place: String, rest: &[&str]| format!("{place}.{}", rest.join("."));
    Some(match parts {
        ["conv_in", rest @ ..] => joined("input_blocks.0.0".into(), rest),
        ["conv_norm_out", rest @ ..] => joined("out.0".into(), rest),
        ["conv_out", rest @ ..] => joined("out.2".into(), rest),
        ["time_embedding", "linear_1", rest @ ..] => joined("time_embed.0".into(), rest),
        ["time_embedding", "linear_2", rest @ ..] => joined("time_embed.2".into(), rest),
        ["add_embedding", "linear_1", rest @ ..] => joined("label_emb.0.0".into(), rest),
        ["add_embedding", "linear_2", rest @ ..] => joined("label_emb.0.2".into(), rest),
        ["mid_block", "resnets", i, rest @ ..] => {
            joined(format!("middle_block.{}", 2 * number(i)?), &unet_resnet(rest))
        }
        ["mid_block", "attentions", i, rest @ ..] => {
            joined(format!("middle_block.{}", 2 * number(i)? + 1), rest)
        }
        ["down_blocks", block, "downsamplers", "0", "conv", rest @ ..] => {
            joined(format!("input_blocks.{}.0.op", (number(block)? + 1) * stride), rest)
        }
        ["up_blocks", block, "upsamplers", "0", "conv", rest @ ..] => {
            // It comes after the attention where there is one.
            let place = format!("output_blocks.{}", number(block)? * stride + layers);
            let attention = has(&format!("{UNET}{place}.1.norm.weight"));
            joined(format!("{place}.{}.conv", if attention { 2 } else { 1 }), rest)
        }
        [side @ ("down_blocks" | "up_blocks"), block, kind, i, rest @ ..] => {
            let position = number(block)? * stride + number(i)?;
            let place = match *side {
                "down_blocks" => format!("input_blocks.{}", position + 1),
                _ => format!("output_blocks.{position}"),
            };
            match *kind {
                "resnets" => joined(format!("{place}.0"), &unet_resnet(rest)),
                "attentions" => joined(format!("{place}.1"), rest),
                _ => return None,
            }
        }
        _ => return None,
    })
}

fn unet_resnet<'a>(rest: &[&'a str]) -> Vec<&'a str> {
    let mut rest = rest.to_vec();
    if let Some(layer) = rest.first_mut() {
        *layer = match *layer {
            "norm1" => "in_layers.0",
            "conv1" => "in_layers.2",
            "time_emb_proj" => "emb_layers.1",
            "norm2" => "out_layers.0",
            "conv2" => "out_layers.3",
            "conv_shortcut" => "skip_connection",
            other => other,
        };
    }
    rest
}

fn vae(key: &str, prefix: &str, blocks: usize) -> (String, Cut) {
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

/// Files of 2022 leave out the `text_model.` of later transformers.
fn clip(key: &str, prefix: &str, has: &dyn Fn(&str) -> bool) -> String {
    let inner = key.strip_prefix("text_model.").unwrap_or(key);
    let short = format!("{prefix}{inner}");
    if inner.starts_with("text_projection") || has(&short) {
        return short;
    }
    format!("{prefix}text_model.{inner}")
}

fn open_clip(key: &str, prefix: &str) -> (String, Cut) {
    let inner = key.strip_prefix("text_model.").unwrap_or(key);
    let (place, cut) = match inner {
        "embeddings.token_embedding.weight" => ("token_embedding.weight".to_owned(), Cut::Whole),
        "embeddings.position_embedding.weight" => ("positional_embedding".to_owned(), Cut::Whole),
        "text_projection.weight" => ("text_projection".to_owned(), Cut::Transposed),
        _ => match inner.strip_prefix("encoder.layers.").and_then(|rest| rest.split_once('.')) {
            Some((layer, rest)) => {
                let (rest, part) = open_clip_layer(rest);
                (format!("transformer.resblocks.{layer}.{rest}"), part)
            }
            None => (inner.replace("final_layer_norm.", "ln_final."), Cut::Whole),
        },
    };
    (format!("{prefix}{place}"), cut)
}

fn open_clip_layer(rest: &str) -> (String, Cut) {
    if let Some((layer, end)) = rest.strip_prefix("self_attn.").and_then(|rest| rest.split_once('.')) {
        return match layer {
            "q_proj" => (format!("attn.in_proj_{end}"), Cut::Third(0)),
            "k_proj" => (format!("attn.in_proj_{end}"), Cut::Third(1)),
            "v_proj" => (format!("attn.in_proj_{end}"), Cut::Third(2)),
            _ => (format!("attn.{layer}.{end}"), Cut::Whole),
        };
    }
    let names = [
        ("layer_norm1.", "ln_1."),
        ("layer_norm2.", "ln_2."),
        ("mlp.fc1.", "mlp.c_fc."),
        ("mlp.fc2.", "mlp.c_proj."),
    ];
    let rest = names
        .iter()
        .find_map(|(new, old)| Some(format!("{old}{}", rest.strip_prefix(new)?)))
        .unwrap_or_else(|| rest.to_owned());
    (rest, Cut::Whole)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn nothing(_: &str) -> bool {
        false
    }

    #[test]
    fn the_blocks_of_a_unet_of_two_layers_are_numbered_as_in_stable_diffusion_1() {
        let unet = OriginalNames::UNet { layers: 2 };
        let cases = [
            ("down_blocks.0.resnets.0.conv1.weight", "input_blocks.1.0.in_layers.2.weight"),
            ("down_blocks.0.downsamplers.0.conv.bias", "input_blocks.3.0.op.bias"),
            ("down_blocks.3.resnets.1.time_emb_proj.weight", "input_blocks.11.0.emb_layers.1.weight"),
            ("mid_block.resnets.1.norm2.bias", "middle_block.2.out_layers.0.bias"),
            ("up_blocks.0.upsamplers.0.conv.weight", "output_blocks.2.1.conv.weight"),
            ("up_blocks.3.resnets.2.conv_shortcut.weight", "output_blocks.11.0.skip_connection.weight"),
        ];
        for (ours, theirs) in cases {
            assert_eq!(unet.original(ours, &nothing).0, format!("model.diffusion_model.{theirs}"));
        }
    }

    #[test]
    fn an_upsampler_comes_after_the_attention_of_its_block() {
        let has = |key: &str| key == "model.diffusion_model.output_blocks.5.1.norm.weight";
        let (key, _) = OriginalNames::UNet { layers: 2 }.original("up_blocks.1.upsamplers.0.conv.bias", &has);
        assert_eq!(key, "model.diffusion_model.output_blocks.5.2.conv.bias");
    }

    #[test]
    fn up_blocks_of_the_autoencoder_are_counted_from_the_other_end() {
        let vae = OriginalNames::Vae { prefix: "first_stage_model.", blocks: 4 };
        let (key, _) = vae.original("decoder.up_blocks.0.resnets.2.conv_shortcut.bias", &nothing);
        assert_eq!(key, "first_stage_model.decoder.up.3.block.2.nin_shortcut.bias");
        let (key, part) = vae.original("encoder.mid_block.attentions.0.to_out.0.weight", &nothing);
        assert_eq!(
            (key.as_str(), part),
            ("first_stage_model.encoder.mid.attn_1.proj_out.weight", Cut::Matrix)
        );
    }

    #[test]
    fn a_name_with_hostile_numbers_stays_a_name() {
        let (key, _) = OriginalNames::UNet { layers: 2 }
            .original("down_blocks.99999999999999999999.resnets.0.x", &nothing);
        assert!(key.ends_with("down_blocks.99999999999999999999.resnets.0.x"));
        let (key, _) = OriginalNames::Vae { prefix: "vae.", blocks: 2 }
            .original("decoder.up_blocks.7.resnets.0.x", &nothing);
        assert!(key.ends_with("decoder.up_blocks.7.resnets.0.x"));
    }
}
