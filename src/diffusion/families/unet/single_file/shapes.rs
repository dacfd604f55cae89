//! What the shapes of a file's tensors tell of its UNet, put over the published configurations.
//!
//! What they do not tell: attention heads (8 everywhere in 1.x, 64 channels each in 2.x and XL) and the groups of the
//! norms (32, or for small networks the greatest power of two that divides all channels).

use serde_json::{Value, json};

use super::Kind;
use crate::diffusion::{
    DiffusionError,
    checkpoint::MappedFile,
    families::originals::{count, groups, heads, put, shape},
};

/// Heads of every attention in Stable Diffusion 1.
const V1_HEADS: usize = 8;

/// Residual layers of a down block: a sampler follows them.
pub fn unet_layers(file: &MappedFile, prefix: &str) -> Result<usize, DiffusionError> {
    let inputs = unet_inputs(file, prefix);
    let sampler = (1..inputs).find(|i| file.has(&format!("{prefix}input_blocks.{i}.0.op.weight")));
    match sampler.unwrap_or(inputs) {
        stride if stride >= 2 && inputs.is_multiple_of(stride) => Ok(stride - 1),
        stride => Err(DiffusionError::Config {
            file: file.path().to_owned(),
            key: format!("{prefix}input_blocks"),
            expected: "blocks of equally many layers, each but the last with a sampler (`0.op`) after it"
                .into(),
            found: format!("{inputs} layers, the first sampler at {stride}"),
        }),
    }
}

/// Numbered input blocks: the first convolution, then layers and samplers.
fn unet_inputs(file: &MappedFile, prefix: &str) -> usize {
    (0..)
        .take_while(|i| {
            ["0.weight", "0.op.weight", "0.in_layers.2.weight"]
                .iter()
                .any(|end| file.has(&format!("{prefix}input_blocks.{i}.{end}")))
        })
        .count()
}

/// `unet/config.json`. `pooled` is the width of the pooled text, where the file has its encoder.
pub fn unet(
    file: &MappedFile,
    prefix: &str,
    kind: Kind,
    pooled: Option<usize>,
    config: &mut Value,
) -> Result<(), DiffusionError> {
    let stride = unet_layers(file, prefix)? + 1;
    let blocks = unet_inputs(file, prefix) / stride;
    let input = |block: usize, end: &str| format!("{prefix}input_blocks.{}.{end}", 1 + block * stride);
    let output = |block: usize, end: &str| format!("{prefix}output_blocks.{}.{end}", block * stride);
    let channels = (0..blocks)
        .map(|block| Ok(shape(file, &input(block, "0.out_layers.3.weight"), 4)?[0]))
        .collect::<Result<Vec<_>, DiffusionError>>()?;
    let down: Vec<bool> = (0..blocks).map(|block| file.has(&input(block, "1.norm.weight"))).collect();
    let up: Vec<bool> = (0..blocks).map(|block| file.has(&output(block, "1.norm.weight"))).collect();
    let depth =
        |place: &str| count(file, |i| format!("{prefix}{place}.1.transformer_blocks.{i}.attn1.to_q.weight"));
    let mid = depth_of_middle(file, prefix);
    let mut depths: Vec<usize> = (0..blocks)
        .map(|block| if down[block] { depth(&format!("input_blocks.{}", 1 + block * stride)) } else { 1 })
        .collect();
    // The middle block is as deep as the last down block would be.
    if let (Some(last), Some(false)) = (depths.last_mut(), down.last()) {
        *last = mid;
    }
    let names = |cross: &[bool], with: &str, without: &str| -> Vec<String> {
        cross.iter().map(|cross| if *cross { with } else { without }.to_owned()).collect()
    };
    let conv_in = shape(file, &format!("{prefix}input_blocks.0.0.weight"), 4)?;
    let conv_out = shape(file, &format!("{prefix}out.2.weight"), 4)?;
    let context =
        shape(file, &format!("{prefix}middle_block.1.transformer_blocks.0.attn2.to_k.weight"), 2)?[1];
    let projection = file.shape(&format!("{prefix}middle_block.1.proj_in.weight")).map_or(0, <[usize]>::len);
    put(
        config,
        json!({
            "in_channels": conv_in[1],
            "out_channels": conv_out[0],
            "block_out_channels": channels,
            "layers_per_block": stride - 1,
            "down_block_types": names(&down, "CrossAttnDownBlock2D", "DownBlock2D"),
            "up_block_types": names(&up, "CrossAttnUpBlock2D", "UpBlock2D"),
            "cross_attention_dim": context,
            "transformer_layers_per_block": depths,
            "use_linear_projection": projection == 2,
            "norm_num_groups": groups(&channels),
            "attention_head_dim": match kind {
                Kind::V1 => json!(V1_HEADS),
                Kind::V2 | Kind::XlBase | Kind::XlRefiner => {
                    channels.iter().map(|channels| heads(*channels)).collect()
                }
            },
        }),
    );
    if let (Some(numbers), Some(pooled)) = (kind.sizes(), pooled) {
        put(config, added(file, prefix, pooled, numbers)?);
    }
    Ok(())
}

fn depth_of_middle(file: &MappedFile, prefix: &str) -> usize {
    count(file, |i| format!("{prefix}middle_block.1.transformer_blocks.{i}.attn1.to_q.weight")).max(1)
}

/// XL's second embedding: the pooled text, and `numbers` sizes and positions of equal width.
pub fn added(
    file: &MappedFile,
    prefix: &str,
    pooled: usize,
    numbers: usize,
) -> Result<Value, DiffusionError> {
    let label = format!("{prefix}label_emb.0.0.weight");
    let width = shape(file, &label, 2)?[1];
    let rest = width.checked_sub(pooled).filter(|rest| *rest > 0 && rest.is_multiple_of(numbers));
    let rest = rest.ok_or_else(|| DiffusionError::Config {
        file: file.path().to_owned(),
        key: label,
        expected: format!("{pooled} inputs of the pooled text and {numbers} times those of a number"),
        found: format!("{width} inputs"),
    })?;
    Ok(json!({
        "projection_class_embeddings_input_dim": width,
        "addition_time_embed_dim": rest / numbers,
    }))
}
