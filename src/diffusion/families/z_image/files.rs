//! Z-Image in the files of its makers and of ComfyUI, which have the transformer alone or with more; and its components in
//! files of their own.

use std::{collections::BTreeMap, sync::Arc};

use serde_json::{Value, json};

use crate::diffusion::{
    DiffusionError,
    checkpoint::{Checkpoint, ComponentFile, Cut, MappedFile, Names, SingleFile},
    families::originals::{self, another, count, shape},
};

/// What the transformer's names begin with.
const PREFIXES: [&str; 2] = ["model.diffusion_model.", ""];
/// Tensors that together tell a transformer of this kind, behind the prefix.
const OWN: [&str; 2] = ["layers.0.adaLN_modulation.0.weight", "cap_pad_token"];
/// The first of them, as it is named in an error.
pub const SIGN: &str = "model.diffusion_model.layers.0.adaLN_modulation.0.weight";
/// Width of an attention head, and the numbers of it that turn with each position: no tensor tells them.
const HEAD: usize = 128;
const AXES: [usize; 3] = [32, 48, 48];
/// Latents of a token.
const TOKEN: usize = 4;

/// A file of this family as a checkpoint; none where it is of another. No tensor tells Turbo from the model that it was
/// made of: it is taken for Turbo, as diffusers does.
///
/// # Errors
/// Tensors that have no shapes of the network.
pub fn open(file: &Arc<MappedFile>) -> Result<Option<SingleFile>, DiffusionError> {
    let Some(prefix) = prefix(file) else { return Ok(None) };
    let mut components = BTreeMap::from([("transformer", transformer(file, prefix)?)]);
    let beside =
        [("vae", originals::vae(file, None, vae())?), ("text_encoder", originals::qwen3(file, None)?)];
    components.extend(beside.into_iter().filter_map(|(name, found)| Some((name, found?))));
    Ok(Some(SingleFile {
        file: file.clone(),
        index: json!({
            "_class_name": "ZImagePipeline",
            "scheduler": ["diffusers", "FlowMatchEulerDiscreteScheduler"],
            "text_encoder": ["transformers", "Qwen3Model"],
            "tokenizer": ["transformers", "Qwen2Tokenizer"],
            "transformer": ["diffusers", "ZImageTransformer2DModel"],
            "vae": ["diffusers", "AutoencoderKL"],
        }),
        scheduler: json!({
            "_class_name": "FlowMatchEulerDiscreteScheduler",
            "num_train_timesteps": 1000,
            "shift": 3.0,
            "use_dynamic_shifting": false,
        }),
        components,
        tokenizers: BTreeMap::new(),
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
            let names = |prefix| Arc::new(ZImageNames(prefix)) as Arc<dyn Names>;
            let found = prefix(file).map(|prefix| ComponentFile {
                file: file.clone(),
                names: Some(names(prefix)),
                config,
            });
            (found, "a transformer of Z-Image")
        }
        "vae" => (originals::vae(file, given, vae())?, "a VAE"),
        _ => (originals::qwen3(file, given)?, "Qwen3"),
    };
    found.map_or_else(|| another(file, component, what), Ok)
}

/// What the shapes of the autoencoder, which is Flux's, do not tell.
fn vae() -> Value {
    json!({ "scaling_factor": 0.3611, "shift_factor": 0.1159, "force_upcast": true })
}

fn prefix(file: &MappedFile) -> Option<&'static str> {
    PREFIXES.into_iter().find(|prefix| OWN.iter().all(|own| file.has(&format!("{prefix}{own}"))))
}

fn transformer(file: &Arc<MappedFile>, prefix: &'static str) -> Result<ComponentFile, DiffusionError> {
    let names = ZImageNames(prefix);
    let find = |key: &str| names.original(key, &|key| file.has(key)).0;
    let embed = shape(file, &find("all_x_embedder.2-1.weight"), 2)?;
    let (width, token) = (embed[0], embed[1]);
    let norm = find("layers.0.attention.norm_q.weight");
    let head = shape(file, &norm, 1)?[0];
    if head != HEAD || width % HEAD != 0 {
        return Err(DiffusionError::Config {
            file: file.path().to_owned(),
            key: norm,
            expected: format!("heads of {HEAD} numbers"),
            found: format!(
                "{head}, of a width of {width}; name its pipeline's folder, and the file as `transformer=PATH`"
            ),
        });
    }
    let blocks = |name: &str| count(file, |i| format!("{prefix}{name}.{i}.attention_norm1.weight"));
    let config = json!({
        "_class_name": "ZImageTransformer2DModel",
        "all_patch_size": [2],
        "all_f_patch_size": [1],
        "in_channels": token / TOKEN,
        "dim": width,
        "n_layers": blocks("layers"),
        "n_refiner_layers": blocks("noise_refiner"),
        "n_heads": width / HEAD,
        "n_kv_heads": width / HEAD,
        "norm_eps": 1e-5,
        "qk_norm": true,
        "cap_feat_dim": shape(file, &format!("{prefix}cap_embedder.0.weight"), 1)?[0],
        "rope_theta": 256.0,
        "t_scale": 1000.0,
        "axes_dims": AXES,
    });
    Ok(ComponentFile { file: file.clone(), names: Some(Arc::new(names)), config })
}

/// diffusers' names of the transformer's tensors to those of its makers, which have queries, keys and values as one; the pairs
/// are those of diffusers' `convert_z_image_transformer_checkpoint_to_diffusers`. A file may have diffusers' own.
struct ZImageNames(&'static str);

impl Names for ZImageNames {
    fn has(&self, name: &str) -> bool {
        name.starts_with(self.0)
    }

    fn original(&self, key: &str, has: &dyn Fn(&str) -> bool) -> (String, Cut) {
        let own = format!("{}{key}", self.0);
        if has(&own) {
            return (own, Cut::Whole);
        }
        let fused = ["to_q", "to_k", "to_v"].into_iter().enumerate().find_map(|(i, layer)| {
            let block = key.strip_suffix(&format!(".attention.{layer}.weight"))?;
            Some((format!("{}{block}.attention.qkv.weight", self.0), Cut::third(i)))
        });
        fused.unwrap_or_else(|| {
            let own = own
                .replace("all_x_embedder.2-1.", "x_embedder.")
                .replace("all_final_layer.2-1.", "final_layer.")
                .replace(".attention.to_out.0.", ".attention.out.")
                .replace(".attention.norm_q.", ".attention.q_norm.")
                .replace(".attention.norm_k.", ".attention.k_norm.");
            (own, Cut::Whole)
        })
    }
}
