//! What `info` says: every key that A1111 has in it, as some clients are strict about each.

use serde_json::{Map, Value, json};

use super::{png, samplers, wish::Wish};
use crate::contract::CompleteEvent;

/// What a request that names no guidance has there.
const USUAL_GUIDANCE: f64 = 7.0;
/// The program, for `version`.
const VERSION: &str = concat!("sd-worker-rbee ", env!("CARGO_PKG_VERSION"));

/// What an answer is about.
#[derive(Debug)]
pub(super) struct Told {
    /// The wish.
    pub wish: Wish,
    /// The operation as it was sent: its fields are known to be right.
    pub sent: Map<String, Value>,
    /// Seconds since 1970.
    pub begun: u64,
}

impl Told {
    /// `info`, without the pictures' own texts where there are none: of a call that was interrupted.
    pub fn info(&self, complete: Option<&CompleteEvent>, infotexts: &[String]) -> Value {
        let images = complete.map(|complete| complete.images.as_slice()).unwrap_or_default();
        let said = png::parsed(infotexts.first().map(String::as_str).unwrap_or_default());
        let pictures = usize::try_from(self.wish.n).unwrap_or(1);
        let text =
            |name: &str| self.sent.get(name).and_then(Value::as_str).unwrap_or_default().trim().to_owned();
        let number =
            |key: &str| said.get(key).and_then(Value::as_str).and_then(|text| text.parse::<f64>().ok());
        let seeds: Vec<u64> = match images {
            [] => {
                let first = self.sent.get("seed").and_then(Value::as_u64).unwrap_or(0);
                (0..self.wish.n).map(|index| first.wrapping_add(index)).collect()
            }
            images => images.iter().map(|image| image.seed).collect(),
        };
        let side = |of: Option<u32>, name: &str| {
            of.map(u64::from).or_else(|| self.sent.get(name).and_then(Value::as_u64)).unwrap_or(0)
        };
        let sampler = said.get("Sampler").and_then(Value::as_str).map(str::to_owned);
        let sampler = sampler.unwrap_or_else(|| samplers::theirs(&text("scheduler")).to_owned());
        let model = complete.map_or_else(|| text("model"), |complete| complete.model.clone());
        let guidance =
            number("CFG scale").or_else(|| self.sent.get("guidance_scale").and_then(Value::as_f64));
        let steps = number("Steps").or_else(|| self.sent.get("steps").and_then(Value::as_f64));
        let mut extra = Map::new();
        for key in ["Schedule type", "Mask blur", "Inpaint area", "Masked area padding"] {
            extra.extend(said.get(key).map(|value| (key.to_owned(), value.clone())));
        }
        let (prompt, negative) = (text("prompt"), text("negative_prompt"));
        let of_job = complete.map(|complete| complete.warnings.as_slice()).unwrap_or_default();
        let warnings: Vec<&String> = self.wish.warnings.iter().chain(of_job).collect();
        json!({
            "prompt": prompt,
            "all_prompts": vec![&prompt; pictures],
            "negative_prompt": negative,
            "all_negative_prompts": vec![&negative; pictures],
            "seed": seeds.first(),
            "all_seeds": seeds,
            "subseed": seeds.first(),
            "all_subseeds": seeds,
            "subseed_strength": 0,
            "width": side(images.first().map(|image| image.width), "width"),
            "height": side(images.first().map(|image| image.height), "height"),
            "sampler_name": sampler,
            "cfg_scale": guidance.unwrap_or(USUAL_GUIDANCE),
            "steps": steps,
            "batch_size": self.wish.n,
            "restore_faces": false,
            "face_restoration_model": null,
            "sd_model_name": model,
            "sd_model_hash": "",
            "sd_vae_name": null,
            "sd_vae_hash": null,
            "seed_resize_from_w": -1,
            "seed_resize_from_h": -1,
            "denoising_strength": self.sent.get("strength"),
            "extra_generation_params": extra,
            "index_of_first_image": 0,
            "infotexts": infotexts,
            "styles": [],
            "job_timestamp": self.begun.to_string(),
            "clip_skip": self.sent.get("clip_skip").and_then(Value::as_u64).unwrap_or(0) + 1,
            "is_using_inpainting_conditioning": false,
            "version": VERSION,
            "warnings": warnings,
        })
    }

    /// What the answer repeats of the request, without its pictures.
    pub fn parameters(&self) -> Value {
        let mut repeated = self.wish.repeated.clone();
        repeated.insert("init_images".into(), Value::Null);
        repeated.insert("mask".into(), Value::Null);
        repeated.into()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::contract::{ImageResult, OutputFormat, Timings};

    /// What sd-backend-client 0.5.0 refuses an answer without.
    const STRICT: [&str; 31] = [
        "prompt",
        "all_prompts",
        "negative_prompt",
        "all_negative_prompts",
        "seed",
        "all_seeds",
        "subseed",
        "all_subseeds",
        "subseed_strength",
        "width",
        "height",
        "sampler_name",
        "cfg_scale",
        "batch_size",
        "restore_faces",
        "sd_model_name",
        "sd_model_hash",
        "sd_vae_name",
        "sd_vae_hash",
        "seed_resize_from_w",
        "seed_resize_from_h",
        "denoising_strength",
        "extra_generation_params",
        "index_of_first_image",
        "infotexts",
        "styles",
        "job_timestamp",
        "clip_skip",
        "is_using_inpainting_conditioning",
        "version",
        "steps",
    ];

    fn told() -> Told {
        let Value::Object(sent) = json!({"prompt": "a", "seed": 7, "clip_skip": 1, "scheduler": "dpmpp_2m_karras",
            "width": 64, "height": 72, "guidance_scale": 5.5})
        else {
            unreachable!()
        };
        Told { wish: Wish { n: 2, warnings: vec!["w".into()], ..Wish::default() }, sent, begun: 5 }
    }

    #[test]
    fn an_interrupted_call_says_as_much_as_one_that_was_drawn() {
        let info = told().info(None, &[]);
        for key in STRICT {
            assert!(info.get(key).is_some(), "{key}");
        }
        assert_eq!((&info["all_seeds"], &info["infotexts"]), (&json!([7, 8]), &json!([])));
        assert_eq!((&info["sampler_name"], &info["cfg_scale"]), (&json!("DPM++ 2M"), &json!(5.5)));
        assert_eq!(
            (&info["width"], &info["clip_skip"], &info["all_prompts"]),
            (&json!(64), &json!(2), &json!(["a", "a"]))
        );
    }

    #[test]
    fn what_was_drawn_says_what_the_model_filled_in() {
        let image = |seed| ImageResult {
            key: "k".into(),
            url: "u".into(),
            format: OutputFormat::Png,
            width: 128,
            height: 96,
            bytes: 1,
            sha256: String::new(),
            seed,
        };
        let complete = CompleteEvent {
            model: "tiny".into(),
            images: vec![image(11), image(12)],
            timings_ms: Timings::default(),
            mask: None,
            warnings: vec!["cut".into()],
        };
        let text = "a\nSteps: 4, Sampler: DPM++ 2M, Schedule type: Karras, CFG scale: 1.5, Seed: 11, Size: 128x96, Model: tiny";
        let info = told().info(Some(&complete), &[text.into()]);
        assert_eq!(
            (&info["steps"], &info["cfg_scale"], &info["seed"]),
            (&json!(4.0), &json!(1.5), &json!(11))
        );
        assert_eq!((&info["width"], &info["height"]), (&json!(128), &json!(96)));
        assert_eq!(info["extra_generation_params"], json!({"Schedule type": "Karras"}));
        assert_eq!((&info["warnings"], &info["sd_model_name"]), (&json!(["w", "cut"]), &json!("tiny")));
    }
}
