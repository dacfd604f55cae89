//! What prompts become, against what transformers' tokenizer and an implementation of A1111's rules in Python made of
//! them (`tools/parity/prompts.py`), with CLIP's real vocabulary; and what holds for any text.

use crate::clip;

use crate::support::{Golden, data, model, picture, relative_l2, text_encoder};
use candle_core::Tensor;
use proptest::prelude::*;
use sd_worker_rbee::{
    contract::{ErrorCode, PromptSyntax},
    diffusion::{
        ImageSpec, Picture, Source, StableDiffusion,
        prompt::{self, MAX_CHUNKS, Piece, Reading},
    },
};
use serde::Deserialize;
use sha2::{Digest, Sha256};

/// Relative L2 error of text embeddings.
const MODULE: f64 = 1e-4;
/// What f32 leaves of a weight.
const WEIGHT: f64 = 1e-6;

#[derive(Deserialize)]
struct Goldens {
    plain: Vec<PlainCase>,
    a1111: Vec<WeightedCase>,
    embedded: Vec<String>,
    digests: Vec<Block>,
    run: Run,
}

#[derive(Deserialize)]
struct PlainCase {
    prompt: String,
    ids: Vec<u32>,
}

#[derive(Deserialize)]
struct WeightedCase {
    prompt: String,
    /// Text and weight; neither for `BREAK`.
    pieces: Vec<(Option<String>, Option<f64>)>,
    chunks: Vec<GoldenChunk>,
}

#[derive(Deserialize)]
struct GoldenChunk {
    ids: Vec<u32>,
    weights: Vec<f64>,
}

#[derive(Deserialize)]
struct Block {
    first: u32,
    digest: String,
}

#[derive(Deserialize)]
struct Run {
    prompt: String,
    negative_prompt: String,
    seed: u64,
    steps: u32,
    guidance_scale: f64,
    width: u32,
    height: u32,
}

fn goldens() -> Goldens {
    serde_json::from_slice(&std::fs::read(data("prompts/prompts.json")).unwrap()).unwrap()
}

fn a1111(prompt: &str) -> Reading {
    prompt::read(clip::tokenizer(), PromptSyntax::A1111, "prompt", prompt).unwrap()
}

fn differ(ours: f64, theirs: f64) -> bool {
    (ours - theirs).abs() > WEIGHT * theirs.abs().max(1.0)
}

#[test]
fn token_ids_are_those_of_transformers_with_the_real_vocabulary() {
    let cases = goldens().plain;
    assert!(cases.len() > 20);
    for case in cases {
        let ids = clip::tokenizer().encode(&case.prompt).unwrap().ids;
        assert_eq!(ids.len(), 77);
        let (words, padding) = ids.split_at(case.ids.len());
        assert_eq!(words, case.ids, "{:?}", case.prompt);
        assert!(padding.iter().all(|id| *id == clip::END), "{:?}", case.prompt);
    }
}

/// In a word, alone, and after an apostrophe.
#[test]
fn every_character_of_unicode_is_read_as_transformers_reads_it() {
    const BLOCK: u32 = 4096;
    let ids = |text: &str| {
        let ids = clip::tokenizer().encode(text).unwrap().ids;
        let words: Vec<String> =
            ids.iter().skip(1).take_while(|id| **id != clip::END).map(u32::to_string).collect();
        words.join(",")
    };
    let mut characters = 0;
    for block in goldens().digests {
        let read: Vec<String> = (block.first..block.first + BLOCK)
            .filter_map(char::from_u32)
            .map(|c| ids(&format!("a{c}b {c} '{c}")))
            .collect();
        characters += read.len();
        let digest: String =
            Sha256::digest(read.join(";").as_bytes())[..8].iter().map(|byte| format!("{byte:02x}")).collect();
        assert_eq!(digest, block.digest, "characters from U+{:04X} on", block.first);
    }
    assert_eq!(characters, 0x11_0000 - 0x800);
}

#[test]
fn weights_and_chunks_are_those_of_a1111_s_rules() {
    let cases = goldens().a1111;
    assert!(cases.len() > 25);
    for case in &cases {
        let pieces: Vec<_> = prompt::parse(&case.prompt).unwrap();
        assert_eq!(pieces.len(), case.pieces.len(), "{}: {pieces:?}", case.prompt);
        for (piece, theirs) in pieces.iter().zip(&case.pieces) {
            match (piece, theirs) {
                (Piece::Break, (None, None)) => {}
                (Piece::Text { text, weight }, (Some(theirs), Some(weighs))) => {
                    assert_eq!(text, theirs, "{}", case.prompt);
                    assert!(!differ(*weight, *weighs), "{}: {text} {weight} {weighs}", case.prompt);
                }
                _ => panic!("{}: {piece:?} {theirs:?}", case.prompt),
            }
        }
        let chunks = a1111(&case.prompt).chunks;
        assert_eq!(chunks.len(), case.chunks.len(), "{}", case.prompt);
        for (i, (chunk, theirs)) in chunks.iter().zip(&case.chunks).enumerate() {
            assert_eq!(chunk.ids, theirs.ids, "{} chunk {i}", case.prompt);
            assert_eq!(chunk.weights.len(), theirs.weights.len());
            for (ours, theirs) in chunk.weights.iter().zip(&theirs.weights) {
                assert!(!differ(f64::from(*ours), *theirs), "{} chunk {i}: {ours} {theirs}", case.prompt);
            }
        }
    }
    assert!(cases.iter().any(|case| case.chunks.len() > 2));
}

#[test]
fn weighted_embeddings_are_those_of_the_formula() {
    let golden = Golden::read("prompts/prompts.safetensors");
    let prompts = goldens().embedded;
    for checkpoint in ["text", "inpaint"] {
        let model = model(checkpoint);
        for (i, prompt) in prompts.iter().enumerate() {
            let reading = prompt::read(model.tokenizer(), PromptSyntax::A1111, "prompt", prompt).unwrap();
            let encoder = |ids: &[u32]| text_encoder(&model).forward(&[ids.to_vec()], 0);
            let ours = prompt::encode(&reading.chunks, encoder).unwrap();
            let error = relative_l2(&ours, golden.get(&format!("{checkpoint}.{i}")));
            println!("{checkpoint} {prompt:.40}: {:?} relative L2 {error:.2e}", ours.dims());
            assert!(error <= MODULE, "{checkpoint} {prompt}: {error:e}");
        }
    }
}

fn spec(prompt: &str, negative: &str, syntax: PromptSyntax, run: &Run) -> ImageSpec {
    ImageSpec {
        negative_prompt: Some(negative.into()),
        prompt_syntax: syntax,
        steps: run.steps,
        guidance_scale: run.guidance_scale,
        seed: run.seed,
        ..ImageSpec::new(prompt, Source::Text { width: run.width, height: run.height })
    }
}

fn drawn(model: &StableDiffusion, mut job: Picture) -> image::RgbImage {
    while !job.is_done() {
        model.advance(&mut [&mut job]).unwrap();
    }
    model.finish(&job).unwrap()
}

#[test]
fn a_picture_of_two_weighted_chunks_is_what_diffusers_draws_from_their_embeddings() {
    let (run, model) = (goldens().run, model("text"));
    let job = model.begin(&spec(&run.prompt, &run.negative_prompt, PromptSyntax::A1111, &run)).unwrap();
    assert_eq!(job.warnings(), [""; 0]);
    let golden = Golden::read("prompts/prompts.safetensors").rgb("picture");
    let (mean, largest) = picture::difference(&drawn(&model, job), &golden);
    println!("picture differs by {mean:.5} in the mean, {largest} at most");
    assert!(mean <= 0.02 && largest <= 2, "{mean} {largest}");
}

#[test]
fn a_short_prompt_without_weights_is_the_same_in_both_syntaxes() {
    let (run, model) = (goldens().run, model("text"));
    let both = [PromptSyntax::Plain, PromptSyntax::A1111].map(|syntax| {
        drawn(&model, model.begin(&spec("a large red circle", "the blue", syntax, &run)).unwrap())
    });
    assert_eq!(both[0], both[1]);
}

#[test]
fn a_repeated_prompt_is_encoded_once_and_draws_the_same_picture() {
    let (run, model) = (goldens().run, model("text"));
    let spec = spec(&run.prompt, &run.negative_prompt, PromptSyntax::A1111, &run);
    let first = drawn(&model, model.begin(&spec).unwrap());
    let (hits, bytes) = (model.prompts().embeddings().hits(), model.prompts().embeddings().bytes());
    let second = drawn(&model, model.begin(&spec).unwrap());
    assert_eq!(first, second);
    // Prompt, negative prompt, and the empty prompt that pads the latter.
    assert_eq!(model.prompts().embeddings().hits(), hits + 3);
    assert_eq!(model.prompts().embeddings().bytes(), bytes);
}

#[test]
fn a_warning_comes_with_a_cached_prompt_too() {
    let (run, model) = (goldens().run, model("text"));
    let spec = spec(&"red ".repeat(80), "", PromptSyntax::Plain, &run);
    for _ in 0..2 {
        let job = model.begin(&spec).unwrap();
        assert_eq!(job.warnings().len(), 1);
        assert!(job.warnings()[0].contains("`prompt` was cut at 77 tokens"), "{:?}", job.warnings());
    }
}

#[test]
fn a_prompt_of_too_many_chunks_is_refused_with_both_numbers() {
    let read = |text: &str| prompt::read(clip::tokenizer(), PromptSyntax::A1111, "negative_prompt", text);
    assert_eq!(read(&"red ".repeat(75 * MAX_CHUNKS)).unwrap().chunks.len(), MAX_CHUNKS);
    for text in ["red ".repeat(75 * MAX_CHUNKS + 1), "BREAK ".repeat(4096 / 6)] {
        let error = read(&text).unwrap_err();
        assert_eq!(error.code(), ErrorCode::InvalidRequest);
        let error = error.to_string();
        assert!(error.contains("negative_prompt") && error.contains("32 chunks of 75 tokens"), "{error}");
    }
}

#[test]
fn a_weight_that_cannot_be_used_is_refused_by_the_field_s_name() {
    let (run, model) = (goldens().run, model("text"));
    for (prompt, part) in [("(a:1.2.3)", "1.2.3"), ("(a:99999)", "99999")] {
        let error = model.begin(&spec("a", prompt, PromptSyntax::A1111, &run)).err().unwrap();
        assert_eq!(error.code(), ErrorCode::InvalidRequest);
        let error = error.to_string();
        assert!(error.contains("negative_prompt") && error.contains(part), "{error}");
    }
}

#[test]
fn what_only_the_web_ui_reads_is_named_in_a_warning() {
    let warning = a1111("a [cat|dog] in the (rain:1.2)").warning.unwrap();
    assert!(warning.contains("`prompt`") && warning.contains("[a|b]"), "{warning}");
    assert_eq!(a1111("a [cat] in the (rain:1.2)").warning, None);
}

/// Letters, marks, emoji, controls, brackets, and whatever else there is.
fn any_text() -> impl Strategy<Value = String> {
    prop_oneof![
        any::<String>(),
        r"[a-zA-Z0-9 ,.!'()\[\]:\\]{0,300}",
        r"(<\|(start|end)oftext\|>|BREAK|[(\[]+|:-?1\.[0-9]|[)\]]+| |[a-z]{1,9}){0,60}",
    ]
}

proptest! {
    #[test]
    fn any_text_becomes_77_known_ids_from_start_to_end(text in any_text()) {
        let ids = clip::tokenizer().encode(&text).unwrap().ids;
        prop_assert_eq!(ids.len(), 77);
        prop_assert_eq!(ids[0], clip::START);
        prop_assert_eq!(ids[76], clip::END);
        prop_assert!(ids.iter().all(|id| (*id as usize) < clip::WORDS));
    }

    #[test]
    fn any_text_becomes_whole_chunks_of_finite_weights_or_an_error(text in any_text()) {
        if let Ok(reading) = prompt::read(clip::tokenizer(), PromptSyntax::A1111, "prompt", &text) {
            prop_assert!((1..=MAX_CHUNKS).contains(&reading.chunks.len()));
            for chunk in &reading.chunks {
                prop_assert_eq!((chunk.ids.len(), chunk.weights.len()), (77, 77));
                prop_assert_eq!((chunk.ids[0], chunk.ids[76]), (clip::START, clip::END));
                prop_assert!(chunk.weights.iter().all(|weight| weight.is_finite()));
            }
        }
    }

    #[test]
    fn short_texts_come_back_from_their_ids_lower_case_and_without_spaces(text in "\\PC{0,12}") {
        let ids = clip::tokenizer().encode(&text).unwrap().ids;
        let words = ids[1..].iter().take_while(|id| **id != clip::END);
        let spaceless = |text: &str| text.split_whitespace().collect::<String>();
        prop_assert_eq!(spaceless(&clip::decoded(words)), spaceless(&clip::normalised(&text)));
    }

    #[test]
    fn a_text_without_syntax_is_one_piece(text in r"[a-z0-9 ,.!?'-]{1,200}") {
        prop_assert_eq!(prompt::parse(&text).unwrap(), [Piece::Text { text, weight: 1.0 }]);
    }
}

#[test]
fn the_embeddings_of_a_chunk_do_not_depend_on_the_chunks_beside_it() {
    let model = model("text");
    let encoded = |prompt: &str| {
        let reading = prompt::read(model.tokenizer(), PromptSyntax::A1111, "prompt", prompt).unwrap();
        prompt::encode(&reading.chunks, |ids| text_encoder(&model).forward(&[ids.to_vec()], 0)).unwrap()
    };
    let values = |x: &Tensor| x.flatten_all().unwrap().to_vec1::<f32>().unwrap();
    let (both, alone) = (encoded("a red circle BREAK (the blue:1.3)"), encoded("(the blue:1.3)"));
    assert_eq!(values(&both.narrow(1, 77, 77).unwrap()), values(&alone));
}
