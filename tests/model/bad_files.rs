//! Files that are named for a component and are another, of another family or another width; components named twice; models
//! that are not drawn with here.

use std::path::Path;

use crate::{
    files::{Files, TRANSFORMER, VAE, open, original, part, refused, wide_flux},
    support::data,
    tensor_file::{Tensor as Stored, TensorFile},
};
use serde_json::json;

#[test]
fn a_file_that_is_named_for_a_component_and_is_another_is_called_what_it_is() {
    let files = Files::new();
    let (flux, sd1) = (data("flux/dev"), data("single_file.sd1.safetensors"));
    let (t5, vae) = (flux.join("text_encoder_2/model.safetensors"), flux.join(VAE));
    let lora = data("loras/text/kohya.safetensors");
    for (component, path, found) in [
        ("vae", &t5, "a T5 text encoder alone"),
        ("transformer", &vae, "an autoencoder alone"),
        ("text_encoder", &t5, "a T5 text encoder alone"),
        ("text_encoder_2", &vae, "an autoencoder alone"),
        ("transformer", &lora, "a LoRA"),
        ("transformer", &sd1, "a UNet of Stable Diffusion"),
    ] {
        let name = path.file_name().unwrap().to_str().unwrap();
        refused(&flux, &[(component, path)], &[name, &format!("`{component}`"), found]);
    }
    let z_image = data("z_image/turbo");
    refused(&z_image, &[("transformer", &flux.join(TRANSFORMER))], &["`transformer`", "a Flux transformer"]);
    refused(&z_image, &[("text_encoder", &t5)], &["`text_encoder`", "Qwen3", "a T5 text encoder alone"]);
    refused(&flux, &[("unet", &sd1)], &["`unet`", "one of tokenizer, tokenizer_2, transformer"]);
    refused(&flux, &[("tokenizer_2", &t5)], &["`tokenizer_2`", "tokenizer.json", "another file"]);
    refused(&flux, &[("vae", &data("runs.json"))], &["runs.json", "not a valid safetensors file"]);
    refused(&vae, &[], &["an autoencoder alone"]);
    // Relatives that are built otherwise.
    let own = TensorFile::read(&flux.join(TRANSFORMER));
    for (name, relative) in [
        ("double_stream_modulation_img.lin.weight", "FLUX.2"),
        ("distilled_guidance_layer.in_proj.weight", "Chroma"),
    ] {
        let mut other = original("flux", &own, "");
        other.put(name, &[4, 4]);
        refused(&files.write("other.safetensors", &other), &[], &[name, relative, "not computed here"]);
    }
    let small = files.write("small.safetensors", &original("flux", &own, ""));
    refused(&small, &[], &["key_norm.scale", "heads of 128 numbers", "transformer=PATH"]);
}

#[test]
fn components_of_another_width_are_refused_by_the_configuration_that_says_so() {
    let files = Files::new();
    let sd1 = TensorFile::read(&data("single_file.sd1.safetensors"));
    let vae = files.write("sd_vae.safetensors", &part(&sd1, "first_stage_model.", ""));
    let (folder, transformer) = wide_flux(&files);
    let main = files.write("flux.safetensors", &original("flux", &transformer, ""));
    let folders = ["text_encoder", "text_encoder_2", "tokenizer", "tokenizer_2"]
        .map(|component| (component, folder.join(component)));
    let mut named: Vec<(&str, &Path)> = folders.iter().map(|(name, path)| (*name, path.as_path())).collect();
    named.push(("vae", &vae));
    refused(&main, &named, &["flux.safetensors", "`in_channels`", "16 by the VAE's latents", "64"]);
    let mut other = part(&sd1, "cond_stage_model.transformer.", "");
    for (name, tensor) in &other.tensors.clone() {
        let sides = tensor.shape.iter().map(|side| if *side < 77 { 2 * side } else { *side });
        other.put(name, &sides.collect::<Vec<_>>());
    }
    let other = files.write("wide_text.safetensors", &other);
    let sd1 = data("single_file.sd1.safetensors");
    refused(&sd1, &[("text_encoder", &other)], &["`cross_attention_dim`", "8 as the text encoders'", "4"]);
    // A folder's own configuration counts: a file that does not fit it is refused by its tensor.
    refused(&data("flux/dev"), &[("vae", &vae)], &["sd_vae.safetensors", "expected shape", "found"]);
}

#[test]
fn a_component_that_is_named_twice_is_refused() {
    let (flux, sd1) = (data("flux/dev"), data("single_file.sd1.safetensors"));
    let vae = flux.join(VAE);
    refused(&flux, &[("vae", &vae), ("vae", &vae)], &["`vae`", "one file or folder", "a second one"]);
    refused(&sd1, &[("unet", &sd1)], &["`unet`", "one file or folder", "beside that of the first file"]);
}

#[test]
fn marks_of_how_a_unet_was_trained_are_believed_and_of_kinds_that_are_not_drawn_refused() {
    let files = Files::new();
    let mark = || Stored { dtype: "F32".into(), shape: vec![0], bytes: vec![] };
    let marked = |family: &str, marks: &[&str]| {
        let mut file = TensorFile::read(&data(&format!("single_file.{family}.safetensors")));
        file.tensors.extend(marks.iter().map(|name| ((*name).to_owned(), mark())));
        files.write("marked.safetensors", &file)
    };
    for (family, class) in [("sd1", "DDIMScheduler"), ("xl_base", "EulerDiscreteScheduler")] {
        let scheduler =
            open(&marked(family, &["v_pred", "ztsnr"]), &[]).checkpoint().config("scheduler").unwrap();
        for (key, value) in [
            ("_class_name", json!(class)),
            ("prediction_type", json!("v_prediction")),
            ("rescale_betas_zero_snr", json!(true)),
            ("timestep_spacing", json!("trailing")),
        ] {
            assert_eq!(scheduler.value(key), Some(&value), "{family} {key}");
        }
        let velocity = open(&marked(family, &["v_pred"]), &[]).checkpoint().config("scheduler").unwrap();
        assert_eq!(velocity.value("prediction_type"), Some(&json!("v_prediction")));
        assert_eq!(velocity.value("rescale_betas_zero_snr"), None);
    }
    for (marks, what) in [
        (&["edm_mean", "edm_std"][..], "Playground 2.5"),
        (&["edm_vpred.sigma_max", "edm_vpred.sigma_min"], "CosXL"),
    ] {
        refused(&marked("xl_base", marks), &[], &["marked.safetensors", marks[0], what, "not computed here"]);
        // Named for a folder's UNet, too.
        refused(&data("xl"), &[("unet", &marked("xl_base", marks))], &[marks[0], what]);
    }
}
