//! Textual inversions: words of files in every form, in prompts and in LoRAs, and files that cannot be used.

use std::{collections::HashMap, fs, path::Path};

use crate::parity::runs::{check_runs, embedding, lora};
use crate::support::model;
use candle_core::{DType, Device, Tensor};
use image::RgbImage;
use sd_worker_rbee::{
    contract::{ErrorCode, PromptSyntax},
    diffusion::{EmbeddingSpec, ImageSpec, LoraSpec, Source, StableDiffusion},
};
use tempfile::TempDir;

/// The tensors of a file, by their names.
type Tensors<'a> = &'a [(&'a str, Tensor)];

/// Width of the checkpoint `text`'s vectors.
const WIDTH: usize = 32;

fn spec(prompt: &str, embeddings: Vec<EmbeddingSpec>) -> ImageSpec {
    ImageSpec {
        prompt_syntax: PromptSyntax::A1111,
        steps: 1,
        guidance_scale: 1.0,
        seed: 1,
        embeddings,
        ..ImageSpec::new(prompt, Source::Text { width: 64, height: 64 })
    }
}

fn draw(model: &StableDiffusion, spec: &ImageSpec) -> RgbImage {
    let mut picture = model.begin(spec).unwrap();
    while !picture.is_done() {
        model.advance(&mut [&mut picture]).unwrap();
    }
    model.finish(&picture).unwrap()
}

fn vectors(shape: &[usize]) -> Tensor {
    let values = (0..shape.iter().product::<usize>()).map(|i| ((i * 7 + 3) % 11) as f32 * 0.01 - 0.05);
    Tensor::from_vec(values.collect::<Vec<f32>>(), shape, &Device::Cpu).unwrap()
}

fn file(folder: &Path, tensors: &[(&str, Tensor)]) -> EmbeddingSpec {
    let name = format!("word{}", fs::read_dir(folder).unwrap().count());
    let file = folder.join(format!("{name}.safetensors"));
    let tensors: HashMap<String, Tensor> =
        tensors.iter().map(|(key, tensor)| ((*key).to_owned(), tensor.clone())).collect();
    candle_core::safetensors::save(&tensors, &file).unwrap();
    EmbeddingSpec { name, field: "negative_prompt", file }
}

#[test]
fn words_of_files_draw_diffusers_pictures() {
    for run in ["embedding_sd", "embedding_xl"] {
        check_runs("embeddings", run);
    }
}

#[test]
fn every_form_of_a_file_is_the_same_word_and_the_next_job_has_none() {
    let (model, folder) = (model("text"), TempDir::new().unwrap());
    let plain = draw(&model, &spec("a word0 circle", vec![]));
    let mut drawn = vec![];
    for (key, shape) in [
        ("<my-word>", &[WIDTH][..]),
        ("emb_params", &[1, WIDTH]),
        ("string_to_param.*", &[1, WIDTH]),
        ("clip_l", &[1, WIDTH]),
    ] {
        let word = file(folder.path(), &[(key, vectors(shape))]);
        for prompt in ["a NAME circle", "a embedding:NAME circle", "a embedding:NAME.safetensors circle"] {
            let prompt = prompt.replace("NAME", &word.name);
            drawn.push(draw(&model, &spec(&prompt, vec![word.clone()])));
        }
    }
    assert!(drawn.iter().all(|picture| picture == &drawn[0]));
    assert_ne!(drawn[0], plain);
    assert_eq!(draw(&model, &spec("a word0 circle", vec![])), plain);
    let of_words = ImageSpec { prompt_syntax: PromptSyntax::Plain, ..spec("a word0 circle", vec![]) };
    let with_file = ImageSpec { embeddings: vec![embedding("ink")], ..of_words.clone() };
    assert_eq!(draw(&model, &with_file), draw(&model, &of_words));
}

#[test]
fn a_word_of_many_vectors_begins_a_chunk_rather_than_being_torn() {
    let (model, folder) = (model("text"), TempDir::new().unwrap());
    let word = file(folder.path(), &[("emb_params", vectors(&[70, WIDTH]))]);
    let prompt = |fill: usize| format!("{} {}", "red ".repeat(fill), word.name);
    let tokens = |fill: usize| {
        let picture = model.begin(&spec(&prompt(fill), vec![word.clone()])).unwrap();
        picture.warnings().len()
    };
    assert_eq!((tokens(5), tokens(6)), (0, 0));
    assert_ne!(
        draw(&model, &spec(&prompt(5), vec![word.clone()])),
        draw(&model, &spec(&prompt(6), vec![word.clone()]))
    );
    let broken = spec(&format!("{} BREAK {}", "red ".repeat(6), word.name), vec![word.clone()]);
    assert_eq!(draw(&model, &spec(&prompt(6), vec![word])), draw(&model, &broken));
}

#[test]
fn a_word_in_a_lora_is_that_of_a_file() {
    let (model, folder) = (model("text"), TempDir::new().unwrap());
    let word = file(folder.path(), &[("emb_params", vectors(&[2, WIDTH]))]);
    let named = EmbeddingSpec { name: "ink".into(), ..word };
    let kohya = lora("text/kohya", 0.7);
    let mut tensors = candle_core::safetensors::load(&kohya.file, &Device::Cpu).unwrap();
    tensors.insert("bundle_emb.ink.string_to_param.*".into(), vectors(&[2, WIDTH]));
    let bundle = folder.path().join("bundle.safetensors");
    candle_core::safetensors::save(&tensors, &bundle).unwrap();
    let bundle = LoraSpec { name: "bundle".into(), file: bundle, strength: 0.7 };
    let apart = ImageSpec { loras: vec![kohya.clone()], ..spec("a ink circle", vec![named]) };
    let bundled = ImageSpec { loras: vec![bundle], ..spec("a ink circle", vec![]) };
    let without = ImageSpec { loras: vec![kohya], ..spec("a ink circle", vec![]) };
    assert_eq!(draw(&model, &bundled), draw(&model, &apart));
    assert_ne!(draw(&model, &without), draw(&model, &apart));
}

#[test]
fn a_file_that_cannot_be_used_is_refused_by_prompt_name_and_key() {
    let folder = TempDir::new().unwrap();
    let cases: [(&str, Tensors<'_>, &str); 10] = [
        ("text", &[("emb_params", vectors(&[2, 24]))], "expected vectors of 32 numbers, found shape [2, 24]"),
        ("text", &[("emb_params", vectors(&[0, WIDTH]))], "1 to 75 vectors"),
        ("text", &[("emb_params", vectors(&[76, WIDTH]))], "1 to 75 vectors"),
        ("text", &[("emb_params", vectors(&[1, 1, WIDTH]))], "shape [1, 1, 32]"),
        ("text", &[("a", vectors(&[1, WIDTH])), ("b", vectors(&[1, WIDTH]))], "one tensor"),
        ("text", &[("clip_l", vectors(&[1, WIDTH])), ("clip_g", vectors(&[1, 24]))], "one text encoder"),
        ("text", &[("string_to_token.*", vectors(&[1]))], "the vectors of a word"),
        ("text", &[("a", Tensor::new(&[[f32::NAN; WIDTH]], &Device::Cpu).unwrap())], "finite numbers"),
        ("text", &[("a", vectors(&[1, WIDTH]).to_dtype(DType::I64).unwrap())], "F16, BF16, F32 or F64"),
        ("xl", &[("emb_params", vectors(&[1, WIDTH]))], "`clip_l` for text_encoder"),
    ];
    for (checkpoint, tensors, part) in cases {
        let word = file(folder.path(), tensors);
        let name = word.name.clone();
        let error = model(checkpoint).begin(&spec("a circle", vec![word])).err().expect(part);
        assert_eq!(error.code(), ErrorCode::InvalidRequest, "{error}");
        let text = error.to_string();
        assert!(text.starts_with(&format!("`negative_prompt`: embedding {name}: `")), "{text}");
        assert!(text.contains(part), "{part} is not in: {text}");
    }
    let xl = EmbeddingSpec { name: "ink".into(), ..embedding("xl/ink") };
    let error = model("text").begin(&spec("a circle", vec![xl])).err().unwrap().to_string();
    assert!(error.contains("clip_g") || error.contains("vectors of 32"), "{error}");
}

#[test]
fn a_pickled_file_is_refused_as_what_it_is() {
    let folder = TempDir::new().unwrap();
    let file = folder.path().join("old.safetensors");
    fs::write(&file, b"\x80\x02}q\0.").unwrap();
    let past = std::time::SystemTime::now() - std::time::Duration::from_secs(60);
    fs::File::options().append(true).open(&file).unwrap().set_modified(past).unwrap();
    let word = EmbeddingSpec { name: "old".into(), field: "prompt", file };
    let error = model("text").begin(&spec("old", vec![word])).err().unwrap();
    assert_eq!(error.code(), ErrorCode::InvalidRequest);
    assert!(error.to_string().contains("`prompt`: embedding old: ") && error.to_string().contains("pickled"));
}
