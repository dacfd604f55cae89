//! Flux.1 in the files of its makers (Black Forest Labs) and of ComfyUI: the transformer alone, or with the autoencoder and
//! the text encoders; and its components in files of their own.

use std::{collections::BTreeMap, sync::Arc};

use serde_json::{Value, json};

use crate::diffusion::{
    DiffusionError,
    checkpoint::{Checkpoint, ComponentFile, Cut, MappedFile, Names, SingleFile, TokenizerFiles, Under},
    families::originals::{self, Clip, another, count, shape},
};

/// What the transformer's names begin with.
const PREFIXES: [&str; 2] = ["model.diffusion_model.", ""];
/// The tensor that tells a transformer of this kind, behind the prefix.
const OWN: &str = "double_blocks.0.img_attn.norm.key_norm.scale";
/// The same, as it is named in an error.
pub const SIGN: &str = "model.diffusion_model.double_blocks.0.img_attn.norm.key_norm.scale";
/// Tensors of its relatives, which are built otherwise, behind the prefix.
const RELATIVES: [(&str, &str); 3] = [
    ("double_stream_modulation_img.lin.weight", "FLUX.2"),
    ("single_stream_modulation.lin.weight", "FLUX.2"),
    ("distilled_guidance_layer.in_proj.weight", "Chroma"),
];
/// Width of an attention head, and the numbers of it that turn with each position: no tensor tells them.
const HEAD: usize = 128;
const AXES: [usize; 3] = [16, 56, 56];

/// A file of this family as a checkpoint; none where it is of another.
///
/// # Errors
/// A relative that is not computed here, and tensors that have no shapes of the network.
pub fn open(file: &Arc<MappedFile>) -> Result<Option<SingleFile>, DiffusionError> {
    let Some(prefix) = prefix(file) else { return Ok(None) };
    let transformer = transformer(file, prefix)?;
    let guided = transformer.config["guidance_embeds"] == json!(true);
    let mut components = BTreeMap::from([("transformer", transformer)]);
    let beside = [
        ("vae", originals::vae(file, None, vae())?),
        ("text_encoder", originals::clip(file, Clip::L, None)?),
        ("text_encoder_2", originals::t5(file, None)?),
    ];
    components.extend(beside.into_iter().filter_map(|(name, found)| Some((name, found?))));
    let label = format!("{} (tokenizer, CLIP's own)", file.path().display());
    let tokenizer = TokenizerFiles::ClipBuiltIn { label: label.into(), padding: None };
    Ok(Some(SingleFile {
        file: file.clone(),
        index: index(),
        scheduler: scheduler(guided),
        components,
        tokenizers: BTreeMap::from([("tokenizer", tokenizer)]),
    }))
}

/// A component in a file of its own.
///
/// # Errors
/// A file that does not have it.
pub fn component(
    component: &str,
    file: &Arc<MappedFile>,
    checkpoint: &Checkpoint,
) -> Result<ComponentFile, DiffusionError> {
    let given = match checkpoint.file() {
        Some(_) => None,
        None => Some(checkpoint.config(component)?),
    };
    let given = given.as_ref();
    let (found, what) = match component {
        "transformer" => {
            let config = given.map_or_else(|| json!({}), |given| given.json());
            let original = prefix(file).map(|prefix| Arc::new(FluxNames(prefix)) as Arc<dyn Names>);
            let diffusers = || {
                let has = file.has("single_transformer_blocks.0.proj_mlp.weight");
                has.then(|| Arc::new(Under("")) as Arc<dyn Names>)
            };
            let names = original.or_else(diffusers);
            let found = names.map(|names| ComponentFile { file: file.clone(), names: Some(names), config });
            (found, "a transformer of Flux.1")
        }
        "vae" => (originals::vae(file, given, vae())?, "a VAE"),
        "text_encoder" => (originals::clip(file, Clip::L, given)?, "CLIP's text encoder"),
        _ => (originals::t5(file, given)?, "T5's encoder"),
    };
    found.map_or_else(|| another(file, component, what), Ok)
}

fn prefix(file: &MappedFile) -> Option<&'static str> {
    PREFIXES.into_iter().find(|prefix| file.has(&format!("{prefix}{OWN}")))
}

fn transformer(file: &Arc<MappedFile>, prefix: &'static str) -> Result<ComponentFile, DiffusionError> {
    let unusable = |key: String, expected: String, found: String| DiffusionError::Config {
        file: file.path().to_owned(),
        key,
        expected,
        found,
    };
    if let Some((key, name)) = RELATIVES.into_iter().find(|(key, _)| file.has(&format!("{prefix}{key}"))) {
        return Err(unusable(
            format!("{prefix}{key}"),
            "Flux.1".into(),
            format!("{name}, which is not computed here"),
        ));
    }
    let sides = |key: &str| {
        Ok::<_, DiffusionError>(match shape(file, &format!("{prefix}{key}"), 2)? {
            [rows, columns] => (*rows, *columns),
            _ => (0, 0),
        })
    };
    let (width, channels) = sides("img_in.weight")?;
    let head = shape(file, &format!("{prefix}{OWN}"), 1)?[0];
    if head != HEAD || width % HEAD != 0 {
        let found = format!(
            "{head}, of a width of {width}; name its pipeline's folder, and the file as `transformer=PATH`"
        );
        return Err(unusable(format!("{prefix}{OWN}"), format!("heads of {HEAD} numbers"), found));
    }
    let config = json!({
        "_class_name": "FluxTransformer2DModel",
        "patch_size": 1,
        "in_channels": channels,
        "out_channels": sides("final_layer.linear.weight")?.0,
        "num_layers": count(file, |i| format!("{prefix}double_blocks.{i}.img_mod.lin.weight")),
        "num_single_layers": count(file, |i| format!("{prefix}single_blocks.{i}.modulation.lin.weight")),
        "attention_head_dim": HEAD,
        "num_attention_heads": width / HEAD,
        "joint_attention_dim": sides("txt_in.weight")?.1,
        "pooled_projection_dim": sides("vector_in.in_layer.weight")?.1,
        "guidance_embeds": file.has(&format!("{prefix}guidance_in.in_layer.weight")),
        "axes_dims_rope": AXES,
    });
    Ok(ComponentFile { file: file.clone(), names: Some(Arc::new(FluxNames(prefix))), config })
}

/// diffusers' names of the transformer's tensors to those of its makers; the pairs are those of diffusers'
/// `convert_flux_transformer_checkpoint_to_diffusers`.
struct FluxNames(&'static str);

impl Names for FluxNames {
    fn has(&self, name: &str) -> bool {
        name.starts_with(self.0)
    }

    fn original(&self, key: &str, _: &dyn Fn(&str) -> bool) -> (String, Cut) {
        let (place, cut) = place(key).unwrap_or_else(|| (key.to_owned(), Cut::Whole));
        (format!("{}{place}", self.0), cut)
    }
}

fn place(key: &str) -> Option<(String, Cut)> {
    const WHOLE: Cut = Cut::Whole;
    let (layer, end) = key.rsplit_once('.')?;
    if let Some(rest) = layer.strip_prefix("transformer_blocks.") {
        let (block, layer) = rest.split_once('.')?;
        let (own, cut) = match layer {
            "norm1.linear" => ("img_mod.lin", WHOLE),
            "norm1_context.linear" => ("txt_mod.lin", WHOLE),
            "attn.to_q" => ("img_attn.qkv", Cut::third(0)),
            "attn.to_k" => ("img_attn.qkv", Cut::third(1)),
            "attn.to_v" => ("img_attn.qkv", Cut::third(2)),
            "attn.add_q_proj" => ("txt_attn.qkv", Cut::third(0)),
            "attn.add_k_proj" => ("txt_attn.qkv", Cut::third(1)),
            "attn.add_v_proj" => ("txt_attn.qkv", Cut::third(2)),
            "attn.norm_q" => {
                return Some((format!("double_blocks.{block}.img_attn.norm.query_norm.scale"), WHOLE));
            }
            "attn.norm_k" => {
                return Some((format!("double_blocks.{block}.img_attn.norm.key_norm.scale"), WHOLE));
            }
            "attn.norm_added_q" => {
                return Some((format!("double_blocks.{block}.txt_attn.norm.query_norm.scale"), WHOLE));
            }
            "attn.norm_added_k" => {
                return Some((format!("double_blocks.{block}.txt_attn.norm.key_norm.scale"), WHOLE));
            }
            "attn.to_out.0" => ("img_attn.proj", WHOLE),
            "attn.to_add_out" => ("txt_attn.proj", WHOLE),
            "ff.net.0.proj" => ("img_mlp.0", WHOLE),
            "ff.net.2" => ("img_mlp.2", WHOLE),
            "ff_context.net.0.proj" => ("txt_mlp.0", WHOLE),
            "ff_context.net.2" => ("txt_mlp.2", WHOLE),
            _ => return None,
        };
        return Some((format!("double_blocks.{block}.{own}.{end}"), cut));
    }
    if let Some(rest) = layer.strip_prefix("single_transformer_blocks.") {
        let (block, layer) = rest.split_once('.')?;
        // Queries, keys, values, and four times as many rows of the feed-forward layer.
        let fused = |from, parts| Cut::Rows { from, parts, of: 7 };
        let (own, cut) = match layer {
            "norm.linear" => ("modulation.lin", WHOLE),
            "attn.to_q" => ("linear1", fused(0, 1)),
            "attn.to_k" => ("linear1", fused(1, 1)),
            "attn.to_v" => ("linear1", fused(2, 1)),
            "proj_mlp" => ("linear1", fused(3, 4)),
            "proj_out" => ("linear2", WHOLE),
            "attn.norm_q" => return Some((format!("single_blocks.{block}.norm.query_norm.scale"), WHOLE)),
            "attn.norm_k" => return Some((format!("single_blocks.{block}.norm.key_norm.scale"), WHOLE)),
            _ => return None,
        };
        return Some((format!("single_blocks.{block}.{own}.{end}"), cut));
    }
    let (own, cut) = match layer {
        "x_embedder" => ("img_in", WHOLE),
        "context_embedder" => ("txt_in", WHOLE),
        "time_text_embed.timestep_embedder.linear_1" => ("time_in.in_layer", WHOLE),
        "time_text_embed.timestep_embedder.linear_2" => ("time_in.out_layer", WHOLE),
        "time_text_embed.guidance_embedder.linear_1" => ("guidance_in.in_layer", WHOLE),
        "time_text_embed.guidance_embedder.linear_2" => ("guidance_in.out_layer", WHOLE),
        "time_text_embed.text_embedder.linear_1" => ("vector_in.in_layer", WHOLE),
        "time_text_embed.text_embedder.linear_2" => ("vector_in.out_layer", WHOLE),
        // Shift comes before scale there.
        "norm_out.linear" => ("final_layer.adaLN_modulation.1", Cut::Swapped),
        "proj_out" => ("final_layer.linear", WHOLE),
        _ => return None,
    };
    Some((format!("{own}.{end}"), cut))
}

fn index() -> Value {
    json!({
        "_class_name": "FluxPipeline",
        "scheduler": ["diffusers", "FlowMatchEulerDiscreteScheduler"],
        "text_encoder": ["transformers", "CLIPTextModel"],
        "text_encoder_2": ["transformers", "T5EncoderModel"],
        "tokenizer": ["transformers", "CLIPTokenizer"],
        "tokenizer_2": ["transformers", "T5TokenizerFast"],
        "transformer": ["diffusers", "FluxTransformer2DModel"],
        "vae": ["diffusers", "AutoencoderKL"],
    })
}

/// As it was published with the model that takes a guidance scale (dev), and with the other (schnell).
fn scheduler(guided: bool) -> Value {
    json!({
        "_class_name": "FlowMatchEulerDiscreteScheduler",
        "base_image_seq_len": 256,
        "base_shift": 0.5,
        "max_image_seq_len": 4096,
        "max_shift": 1.15,
        "num_train_timesteps": 1000,
        "shift": if guided { 3.0 } else { 1.0 },
        "use_dynamic_shifting": guided,
    })
}

/// What the shapes of the autoencoder do not tell.
fn vae() -> Value {
    json!({ "scaling_factor": 0.3611, "shift_factor": 0.1159, "force_upcast": true })
}
