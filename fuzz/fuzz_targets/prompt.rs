//! Any text as a prompt, in both syntaxes, with CLIP's real vocabulary: whole chunks of known tokens and finite
//! weights, or an error.
#![no_main]

#[path = "../../tests/support/clip.rs"]
mod clip;

use libfuzzer_sys::fuzz_target;
use sd_worker_rbee::{
    contract::PromptSyntax,
    diffusion::prompt::{self, MAX_CHUNKS},
};

fuzz_target!(|input: &[u8]| {
    let text = String::from_utf8_lossy(input);
    for syntax in [PromptSyntax::Plain, PromptSyntax::A1111] {
        let Ok(reading) = prompt::read(clip::tokenizer(), syntax, "prompt", &text) else {
            assert_eq!(syntax, PromptSyntax::A1111, "a plain prompt is never refused: {text}");
            continue;
        };
        assert!((1..=MAX_CHUNKS).contains(&reading.chunks.len()));
        for chunk in &reading.chunks {
            assert_eq!((chunk.ids.len(), chunk.weights.len()), (77, 77));
            assert_eq!((chunk.ids[0], chunk.ids[76]), (clip::START, clip::END));
            assert!(chunk.ids.iter().all(|id| (*id as usize) < clip::WORDS));
            assert!(chunk.weights.iter().all(|weight| weight.is_finite()));
        }
    }
});
