//! What the shapes of a file's tensors tell of its networks, put over the published configurations.
//!
//! What they do not tell: attention heads (8 everywhere in 1.x, 64 channels each in 2.x and XL) and the groups of the
//! norms (32, or for small networks the greatest power of two that divides all channels).

use serde_json::{Map, Value, json};

use super::{Kind, UNET};
use crate::diffusion::{DiffusionError, checkpoint::MappedFile};

/// Heads of every attention in Stable Diffusion 1.
const V1_HEADS: usize = 8;
/// Channels of a head in all later ones, and in every CLIP.
const HEAD_CHANNELS: usize = 64;
/// Groups of the norms.
const GROUPS: usize = 32;
/// OpenCLIP's layers in Stable Diffusion 2, of which the last is not used.
const V2_TEXT_LAYERS: usize = 24;

/// The shape of a tensor of so many dimensions.
///
/// # Errors
/// When it is missing or has another number of dimensions.
pub fn shape<'a>(file: &'a MappedFile, key: &str, dimensions: usize) -> Result<&'a [usize], DiffusionError> {
    let found = file.shape(key);
    found.filter(|shape| shape.len() == dimensions).ok_or_else(|| DiffusionError::Config {
        file: file.path().to_owned(),
        key: key.to_owned(),
        expected: format!("a tensor of {dimensions} dimensions"),
        found: found.map_or("none".into(), |shape| format!("shape {shape:?}")),
    })
}

/// Counts from 0 as long as the file has the tensor.
fn count(file: &MappedFile, key: impl Fn(usize) -> String) -> usize {
    (0..).take_while(|i| file.has(&key(*i))).count()
}

fn groups(channels: &[usize]) -> usize {
    let shift = channels.iter().map(|channels| channels.trailing_zeros()).min().unwrap_or(0);
    GROUPS.min(1_usize.checked_shl(shift).unwrap_or(GROUPS))
}

fn heads(width: usize) -> usize {
    (width / HEAD_CHANNELS).max(1)
}

fn put(over: &mut Value, values: Value) {
    if let (Value::Object(over), Value::Object(values)) = (over, values) {
        over.extend(values);
    }
}

/// Residual layers of a down block: a sampler follows them.
pub fn unet_layers(file: &MappedFile) -> Result<usize, DiffusionError> {
    let inputs = unet_inputs(file);
    let sampler = (1..inputs).find(|i| file.has(&format!("{UNET}input_blocks.{i}.0.op.weight")));
    match sampler.unwrap_or(inputs) {
        stride if stride >= 2 && inputs.is_multiple_of(stride) => Ok(stride - 1),
        stride => Err(DiffusionError::Config {
            file: file.path().to_owned(),
            key: format!("{UNET}input_blocks"),
            expected: "blocks of equally many layers, each but the last with a sampler (`0.op`) after it"
                .into(),
            found: format!("{inputs} layers, the first sampler at {stride}"),
        }),
    }
}

/// Numbered input blocks: the first convolution, then layers and samplers.
fn unet_inputs(file: &MappedFile) -> usize {
    (0..)
        .take_while(|i| {
            ["0.weight", "0.op.weight", "0.in_layers.2.weight"]
                .iter()
                .any(|end| file.has(&format!("{UNET}input_blocks.{i}.{end}")))
        })
        .count()
}

/// `unet/config.json`.
pub fn unet(file: &MappedFile, kind: Kind, config: &mut Value) -> Result<(), DiffusionError> {
    let stride = unet_layers(file)? + 1;
    let blocks = unet_inputs(file) / stride;
    let input = |block: usize, end: &str| format!("{UNET}input_blocks.{}.{end}", 1 + block * stride);
    let output = |block: usize, end: &str| format!("{UNET}output_blocks.{}.{end}", block * stride);
    let channels = (0..blocks)
        .map(|block| Ok(shape(file, &input(block, "0.out_layers.3.weight"), 4)?[0]))
        .collect::<Result<Vec<_>, DiffusionError>>()?;
    let down: Vec<bool> = (0..blocks).map(|block| file.has(&input(block, "1.norm.weight"))).collect();
    let up: Vec<bool> = (0..blocks).map(|block| file.has(&output(block, "1.norm.weight"))).collect();
    let depth =
        |place: &str| count(file, |i| format!("{UNET}{place}.1.transformer_blocks.{i}.attn1.to_q.weight"));
    let mid = depth_of_middle(file);
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
    let conv_in = shape(file, &format!("{UNET}input_blocks.0.0.weight"), 4)?;
    let conv_out = shape(file, &format!("{UNET}out.2.weight"), 4)?;
    let context = shape(file, &format!("{UNET}middle_block.1.transformer_blocks.0.attn2.to_k.weight"), 2)?[1];
    let projection = file.shape(&format!("{UNET}middle_block.1.proj_in.weight")).map_or(0, <[usize]>::len);
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
    let label = format!("{UNET}label_emb.0.0.weight");
    match kind {
        Kind::V1 | Kind::V2 => {}
        Kind::XlBase => put(config, added(file, &label, "conditioner.embedders.1.model.text_projection", 6)?),
        Kind::XlRefiner => {
            put(config, added(file, &label, "conditioner.embedders.0.model.text_projection", 5)?)
        }
    }
    Ok(())
}

fn depth_of_middle(file: &MappedFile) -> usize {
    count(file, |i| format!("{UNET}middle_block.1.transformer_blocks.{i}.attn1.to_q.weight")).max(1)
}

/// XL's second embedding: the pooled text, and `numbers` sizes and positions of equal width.
fn added(file: &MappedFile, label: &str, projection: &str, numbers: usize) -> Result<Value, DiffusionError> {
    let width = shape(file, label, 2)?[1];
    let pooled = shape(file, projection, 2)?[1];
    let rest = width.checked_sub(pooled).filter(|rest| *rest > 0 && rest.is_multiple_of(numbers));
    let rest = rest.ok_or_else(|| DiffusionError::Config {
        file: file.path().to_owned(),
        key: label.to_owned(),
        expected: format!("{pooled} inputs of the pooled text and {numbers} times those of a number"),
        found: format!("{width} inputs"),
    })?;
    Ok(json!({
        "projection_class_embeddings_input_dim": width,
        "addition_time_embed_dim": rest / numbers,
    }))
}

/// Blocks of the autoencoder.
pub fn vae_blocks(file: &MappedFile, prefix: &str) -> usize {
    count(file, |i| format!("{prefix}encoder.down.{i}.block.0.conv1.weight"))
}

/// `vae/config.json`.
pub fn vae(file: &MappedFile, prefix: &str, config: &mut Value) -> Result<(), DiffusionError> {
    let blocks = vae_blocks(file, prefix);
    let channels = (0..blocks)
        .map(|block| Ok(shape(file, &format!("{prefix}encoder.down.{block}.block.0.conv1.weight"), 4)?[0]))
        .collect::<Result<Vec<_>, DiffusionError>>()?;
    put(
        config,
        json!({
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
    Ok(())
}

/// `config.json` of transformers' CLIP under a prefix, with or without `text_model.` after it.
pub fn clip(file: &MappedFile, prefix: &str, config: &mut Value) -> Result<(), DiffusionError> {
    let short = file.has(&format!("{prefix}embeddings.position_embedding.weight"));
    let prefix = if short { prefix.to_owned() } else { format!("{prefix}text_model.") };
    let fc1 = shape(file, &format!("{prefix}encoder.layers.0.mlp.fc1.weight"), 2)?[0];
    let layers = count(file, |i| format!("{prefix}encoder.layers.{i}.mlp.fc1.weight"));
    let tokens = format!("{prefix}embeddings.token_embedding.weight");
    let positions = format!("{prefix}embeddings.position_embedding.weight");
    put(config, text(file, &tokens, &positions, fc1, layers)?.into());
    Ok(())
}

/// `config.json` of OpenCLIP's text tower under a prefix.
pub fn open_clip(
    file: &MappedFile,
    kind: Kind,
    prefix: &str,
    config: &mut Value,
) -> Result<(), DiffusionError> {
    let fc1 = shape(file, &format!("{prefix}transformer.resblocks.0.mlp.c_fc.weight"), 2)?[0];
    let layers = match count(file, |i| format!("{prefix}transformer.resblocks.{i}.mlp.c_fc.weight")) {
        V2_TEXT_LAYERS if kind == Kind::V2 => V2_TEXT_LAYERS - 1,
        layers => layers,
    };
    let tokens = format!("{prefix}token_embedding.weight");
    let mut values = text(file, &tokens, &format!("{prefix}positional_embedding"), fc1, layers)?;
    if kind != Kind::V2 {
        let projection = shape(file, &format!("{prefix}text_projection"), 2)?[1];
        values.insert("projection_dim".into(), projection.into());
    }
    put(config, values.into());
    Ok(())
}

fn text(
    file: &MappedFile,
    tokens: &str,
    positions: &str,
    intermediate: usize,
    layers: usize,
) -> Result<Map<String, Value>, DiffusionError> {
    let (tokens, positions) = (shape(file, tokens, 2)?, shape(file, positions, 2)?);
    let width = tokens[1];
    Ok([
        ("vocab_size", tokens[0]),
        ("hidden_size", width),
        ("intermediate_size", intermediate),
        ("num_attention_heads", heads(width)),
        ("num_hidden_layers", layers),
        ("max_position_embeddings", positions[0]),
    ]
    .into_iter()
    .map(|(key, value)| (key.to_owned(), value.into()))
    .collect())
}

#[cfg(test)]
mod tests {
    use super::{groups, heads};

    #[test]
    fn norms_have_32_groups_where_all_channels_allow_it() {
        assert_eq!(groups(&[320, 640, 1280, 1280]), 32);
        assert_eq!(groups(&[384, 768, 1536, 1536]), 32);
        assert_eq!(groups(&[8, 16]), 8);
        assert_eq!(groups(&[0]), 32);
        assert_eq!(groups(&[]), 1);
    }

    #[test]
    fn heads_have_64_channels() {
        assert_eq!([320, 640, 1280].map(heads), [5, 10, 20]);
        assert_eq!([768, 1024, 4].map(heads), [12, 16, 1]);
    }
}
