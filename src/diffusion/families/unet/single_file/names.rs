//! diffusers' names of a UNet's tensors to those of the original layout (CompVis' Stable Diffusion 1, Stability's 2 and XL).
//!
//! Both name the same network; the pairs are those of diffusers' `loaders/single_file_utils.py`.

use crate::diffusion::checkpoint::{Cut, Names};

/// How the tensors of a UNet are named in the file: blocks are numbered through, `layers` residual layers and a sampler to
/// each.
#[derive(Debug, Clone)]
pub struct UNetNames {
    /// What they begin with.
    pub prefix: &'static str,
    /// Residual layers of a down block.
    pub layers: usize,
}

impl Names for UNetNames {
    fn has(&self, name: &str) -> bool {
        name.starts_with(self.prefix)
    }

    fn original(&self, key: &str, has: &dyn Fn(&str) -> bool) -> (String, Cut) {
        let parts: Vec<&str> = key.split('.').collect();
        let has = |place: &str| has(&format!("{}{place}", self.prefix));
        let place = unet_place(&parts, self.layers, &has).unwrap_or_else(|| key.to_owned());
        (format!("{}{place}", self.prefix), Cut::Whole)
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
            let attention = has(&format!("{place}.1.norm.weight"));
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

#[cfg(test)]
mod tests {
    use super::*;

    const UNET: UNetNames = UNetNames { prefix: "model.diffusion_model.", layers: 2 };

    fn nothing(_: &str) -> bool {
        false
    }

    #[test]
    fn the_blocks_of_a_unet_of_two_layers_are_numbered_as_in_stable_diffusion_1() {
        let cases = [
            ("down_blocks.0.resnets.0.conv1.weight", "input_blocks.1.0.in_layers.2.weight"),
            ("down_blocks.0.downsamplers.0.conv.bias", "input_blocks.3.0.op.bias"),
            ("down_blocks.3.resnets.1.time_emb_proj.weight", "input_blocks.11.0.emb_layers.1.weight"),
            ("mid_block.resnets.1.norm2.bias", "middle_block.2.out_layers.0.bias"),
            ("up_blocks.0.upsamplers.0.conv.weight", "output_blocks.2.1.conv.weight"),
            ("up_blocks.3.resnets.2.conv_shortcut.weight", "output_blocks.11.0.skip_connection.weight"),
        ];
        for (ours, theirs) in cases {
            assert_eq!(UNET.original(ours, &nothing).0, format!("model.diffusion_model.{theirs}"));
        }
    }

    #[test]
    fn an_upsampler_comes_after_the_attention_of_its_block() {
        let has = |key: &str| key == "model.diffusion_model.output_blocks.5.1.norm.weight";
        let (key, _) = UNET.original("up_blocks.1.upsamplers.0.conv.bias", &has);
        assert_eq!(key, "model.diffusion_model.output_blocks.5.2.conv.bias");
    }

    #[test]
    fn a_name_with_hostile_numbers_stays_a_name() {
        let (key, _) = UNET.original("down_blocks.99999999999999999999.resnets.0.x", &nothing);
        assert!(key.ends_with("down_blocks.99999999999999999999.resnets.0.x"));
    }
}
