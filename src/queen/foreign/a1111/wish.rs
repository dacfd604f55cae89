//! The fields that txt2img and img2img have in common, as those of a job.

use serde_json::{Map, Value, json};

use super::{pool::Pool, prompt, samplers, switched};
use crate::{
    contract::limits::MAX_IMAGES,
    http::ApiError,
    queen::foreign::{fields::Fields, refusal::field},
};

/// Previews of a picture, about.
const PREVIEWS: u64 = 8;
/// Steps that previews are spread over where a request names none.
const USUAL_STEPS: u64 = 20;
/// What a prompt is that says nothing: the text encoder reads a blank as nothing, and jobs have a prompt.
const NOTHING: &str = " ";
/// Fields that an answer repeats, as far as they came: no field that another program has put there.
const REPEATED: &[&str] = &[
    "prompt",
    "negative_prompt",
    "styles",
    "seed",
    "subseed",
    "subseed_strength",
    "sampler_name",
    "sampler_index",
    "scheduler",
    "batch_size",
    "n_iter",
    "steps",
    "cfg_scale",
    "width",
    "height",
    "restore_faces",
    "tiling",
    "denoising_strength",
    "enable_hr",
    "resize_mode",
    "mask_blur",
    "inpainting_fill",
    "inpaint_full_res",
    "inpaint_full_res_padding",
    "inpainting_mask_invert",
    "send_images",
    "force_task_id",
];
/// Fields of A1111 that change nothing here.
const WITHOUT_EFFECT: &[&str] = &[
    "batch_count",
    "comments",
    "denoising_strength",
    "do_not_save_grid",
    "do_not_save_samples",
    "eta",
    "firstpass_image",
    "firstphase_height",
    "firstphase_width",
    "hr_checkpoint_name",
    "hr_cfg",
    "hr_additional_modules",
    "hr_negative_prompt",
    "hr_prompt",
    "hr_resize_x",
    "hr_resize_y",
    "hr_sampler_name",
    "hr_scale",
    "hr_scheduler",
    "hr_second_pass_steps",
    "hr_upscale_to_x",
    "hr_upscale_to_y",
    "hr_upscaler",
    "image_cfg_scale",
    "include_init_images",
    "initial_noise_multiplier",
    "latent_mask",
    "override_settings_restore_afterwards",
    "refiner_switch_at",
    "s_churn",
    "s_min_uncond",
    "s_noise",
    "s_tmax",
    "s_tmin",
    "save_images",
    "script_args",
    "seed_resize_from_h",
    "seed_resize_from_w",
    "subseed",
    "mask_round",
];

/// What a client wishes.
#[derive(Debug, Default)]
pub(super) struct Wish {
    /// The fields of the job, but for its pictures.
    pub body: Map<String, Value>,
    /// Pictures of the job.
    pub n: u64,
    /// Whether the answer has the pictures.
    pub send_images: bool,
    /// What the client calls it.
    pub task: Option<String>,
    /// What the answer repeats.
    pub repeated: Map<String, Value>,
    /// What there is to say of the request.
    pub warnings: Vec<String>,
}

impl Wish {
    /// Takes the fields. `chosen`: the model that the client has set in its options.
    ///
    /// # Errors
    /// What is wrong with one of them, or what is switched on and cannot be done.
    pub fn read(fields: &mut Fields, pool: &Pool, chosen: Option<String>) -> Result<Self, ApiError> {
        let mut wish = Self { repeated: Self::repeated(fields), n: 1, ..Self::default() };
        switched::refuse(fields)?;
        let mut settings = match fields.take("override_settings") {
            None => Fields::default(),
            Some(Value::Object(settings)) => Fields::of_json(settings),
            Some(Value::Array(none)) if none.is_empty() => Fields::default(),
            Some(_) => return Err(field("override_settings", "must be an object")),
        };
        let named = fields.text("model")?.or(settings.text("sd_model_checkpoint")?);
        let model = named.map(|name| pool.model(&name)).transpose()?.or(chosen);
        if let Some(model) = model {
            wish.set("model", model);
        }
        wish.no_vae(&mut settings)?;
        wish.read_prompts(fields, pool)?;
        let sampler = fields.text("sampler_name")?;
        let sampler = sampler.or(fields.text("sampler_index")?);
        if let Some(scheduler) = samplers::ours(sampler.as_deref(), fields.text("scheduler")?.as_deref())? {
            wish.set("scheduler", scheduler);
        }
        let skip = whole(fields, "clip_skip")?.filter(|skip| *skip > 0);
        let skip = skip.or(whole(&mut settings, "CLIP_stop_at_last_layers")?).unwrap_or(1);
        if skip > 1 {
            // Theirs counts the last layer as 1, ours what is left out.
            wish.set("clip_skip", skip - 1);
        }
        fields.hand_on(&["steps"], "steps", &mut wish.body);
        fields.hand_on(&["cfg_scale"], "guidance_scale", &mut wish.body);
        fields.hand_on(&["seed"], "seed", &mut wish.body);
        let steps = wish.body.get("steps").and_then(Value::as_u64).unwrap_or(USUAL_STEPS);
        wish.set("preview_every", steps.div_ceil(PREVIEWS).max(1));
        wish.n = pictures(fields)?;
        wish.set("n", wish.n);
        wish.send_images = fields.take("send_images") != Some(Value::Bool(false));
        wish.task = fields.text("force_task_id")?;
        if fields
            .take("styles")
            .is_some_and(|styles| styles.as_array().is_some_and(|styles| !styles.is_empty()))
        {
            wish.warnings.push("styles: there are none here".into());
        }
        fields.pass_over(WITHOUT_EFFECT);
        Ok(wish)
    }

    /// What an answer repeats, of fields that nobody has taken yet.
    pub fn repeated(fields: &Fields) -> Map<String, Value> {
        fields.copied(REPEATED)
    }

    /// Sets a field of the job.
    pub fn set(&mut self, name: &str, value: impl Into<Value>) {
        self.body.insert(name.to_owned(), value.into());
    }

    fn read_prompts(&mut self, fields: &mut Fields, pool: &Pool) -> Result<(), ApiError> {
        let prompt = prompt::cut(&fields.text("prompt")?.unwrap_or_default());
        self.warnings.extend(prompt.warnings);
        self.set("prompt", if prompt.text.is_empty() { NOTHING.to_owned() } else { prompt.text });
        if let Some(negative) = fields.text("negative_prompt")? {
            self.set("negative_prompt", negative);
        }
        self.set("prompt_syntax", "a1111");
        let mut loras: Vec<Value> = vec![];
        if !fields.is_set("disable_extra_networks")? {
            let of_prompt = prompt.loras.iter();
            loras.extend(
                of_prompt.map(|lora| json!({"path": pool.lora(&lora.name), "strength": lora.strength})),
            );
        }
        // stable-diffusion.cpp's way to name them.
        for entry in list(fields, "lora")? {
            let (Some(path), strength) = (entry["path"].as_str(), entry["multiplier"].as_f64()) else {
                return Err(field("lora", "must be a list of objects with `path` and `multiplier`"));
            };
            loras.push(json!({"path": pool.lora(path), "strength": strength.unwrap_or(1.0)}));
        }
        if !loras.is_empty() {
            self.set("loras", loras);
        }
        Ok(())
    }

    /// A checkpoint comes with its autoencoder.
    fn no_vae(&self, settings: &mut Fields) -> Result<(), ApiError> {
        match settings.text("sd_vae")? {
            Some(vae) if !matches!(vae.to_ascii_lowercase().as_str(), "automatic" | "none") => Err(field(
                "override_settings.sd_vae",
                "there are no VAEs to choose from; `Automatic` is the model's own",
            )),
            _ => Ok(()),
        }
    }
}

/// Pictures: those of a batch, times batches.
fn pictures(fields: &mut Fields) -> Result<u64, ApiError> {
    let mut count = |name: &str| match whole(fields, name)?.unwrap_or(1) {
        count @ 1.. => Ok(count as u64),
        count => Err(field(name, format!("{count} is out of bounds; 1 and up is allowed"))),
    };
    let (size, batches) = (count("batch_size")?, count("n_iter")?);
    match size.saturating_mul(batches) {
        pictures if pictures <= u64::from(MAX_IMAGES) => Ok(pictures),
        pictures => {
            let reason = format!("{pictures} pictures with `n_iter`; at most {MAX_IMAGES} are allowed");
            Err(field("batch_size", reason))
        }
    }
}

/// Takes a whole number.
pub(super) fn whole(fields: &mut Fields, name: &str) -> Result<Option<i64>, ApiError> {
    let Some(value) = fields.take(name) else { return Ok(None) };
    let number = value
        .as_i64()
        .or_else(|| value.as_f64().filter(|number| number.fract() == 0.0).map(|number| number as i64));
    number.map(Some).ok_or_else(|| field(name, "must be a whole number"))
}

/// Takes a list; one that is not there is empty.
pub(super) fn list(fields: &mut Fields, name: &str) -> Result<Vec<Value>, ApiError> {
    match fields.take(name) {
        None => Ok(vec![]),
        Some(Value::Array(items)) => Ok(items),
        Some(_) => Err(field(name, "must be a list")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::queen::foreign::{
        a1111::{endpoints, start::Start},
        schemas,
    };

    fn read(body: Value) -> Result<(Wish, Fields), ApiError> {
        let Value::Object(body) = body else { panic!("{body}") };
        let mut fields = Fields::of_json(body);
        let pool =
            Pool { models: vec!["tiny".into(), "org/big".into()], loras: ["styles/oil".to_owned()].into() };
        let wish = Wish::read(&mut fields, &pool, Some("chosen".into()))?;
        Ok((wish, fields))
    }

    #[test]
    fn every_field_that_the_document_names_is_read() {
        let mut said = schemas::properties("A1111Img2Img", endpoints::from_a_picture);
        said.extend(schemas::properties("A1111Txt2Img", endpoints::from_words));
        said.insert("init_images".into(), json!(["AA=="]));
        let mut fields = Fields::of_json(said);
        Start::take(&mut fields).unwrap();
        Wish::read(&mut fields, &Pool::default(), None).unwrap();
        assert_eq!(fields.ignored(), None);
    }

    #[test]
    fn a_request_is_the_job_that_it_means() {
        let (wish, fields) = read(json!({
            "prompt": "a (cat:1.2) <lora:oil:0.8>", "negative_prompt": "fog", "seed": -1, "steps": 22, "cfg_scale": 4.5,
            "batch_size": 2, "n_iter": 3, "sampler_name": "DPM++ 2M", "scheduler": "automatic", "clip_skip": 2,
            "override_settings": {"sd_model_checkpoint": "big", "sd_vae": "Automatic", "CLIP_stop_at_last_layers": 3},
            "eta": 1, "hr_scale": 2, "denoising_strength": 0.7, "url": "http://me", "auth": "me:secret", "width": 64,
        }))
        .unwrap();
        assert_eq!(
            Value::from(wish.body),
            json!({"model": "org/big", "prompt": "a (cat:1.2)", "negative_prompt": "fog", "prompt_syntax": "a1111",
                "loras": [{"path": "styles/oil", "strength": 0.8}], "scheduler": "dpmpp_2m_karras", "clip_skip": 1,
                "steps": 22, "guidance_scale": 4.5, "seed": -1, "preview_every": 3, "n": 6})
        );
        assert!(wish.send_images && wish.task.is_none() && wish.warnings.is_empty());
        assert_eq!(wish.repeated["cfg_scale"], 4.5);
        assert!(!wish.repeated.contains_key("auth"), "a password is not repeated");
        assert_eq!(fields.ignored().unwrap(), "auth, url, width");
    }

    #[test]
    fn what_is_not_told_is_the_models_own() {
        let (wish, _) =
            read(json!({"prompt": "", "clip_skip": -1, "sampler_name": "", "styles": ["x"]})).unwrap();
        assert_eq!(
            Value::from(wish.body),
            json!({"model": "chosen", "prompt": " ", "prompt_syntax": "a1111", "preview_every": 3, "n": 1})
        );
        assert_eq!(wish.warnings, ["styles: there are none here"]);
    }

    #[test]
    fn other_ways_to_say_the_same_are_taken() {
        let (wish, _) = read(json!({
            "prompt": "a", "model": "tiny", "sampler_index": "Euler a", "send_images": false, "force_task_id": "task(x-1)",
            "lora": [{"path": "oil.safetensors", "multiplier": 0.5}],
            "override_settings": {"CLIP_stop_at_last_layers": 2},
        }))
        .unwrap();
        assert_eq!((&wish.body["model"], &wish.body["scheduler"]), (&json!("tiny"), &json!("euler_a")));
        assert_eq!(wish.body["clip_skip"], 1);
        assert_eq!(wish.body["loras"], json!([{"path": "styles/oil", "strength": 0.5}]));
        assert!(!wish.send_images && wish.task.as_deref() == Some("task(x-1)"));
        let off = read(json!({"prompt": "a <lora:oil>", "disable_extra_networks": true})).unwrap().0;
        assert_eq!((off.body.get("loras"), &off.body["prompt"]), (None, &json!("a")));
    }

    #[test]
    fn what_is_wrong_is_told_of_its_field() {
        for (body, status, says) in [
            (json!({"batch_size": 3, "n_iter": 3}), 400, "`batch_size`: 9 pictures"),
            (json!({"n_iter": 0}), 400, "`n_iter`: 0 is out of bounds"),
            (json!({"batch_size": "two"}), 400, "`batch_size`: must be a whole number"),
            (
                json!({"override_settings": {"sd_model_checkpoint": "nosuch"}}),
                404,
                "`model`: the pool has no `nosuch`",
            ),
            (json!({"override_settings": {"sd_vae": "my.pt"}}), 400, "`override_settings.sd_vae`: "),
            (json!({"override_settings": 7}), 400, "`override_settings`: must be an object"),
            (json!({"prompt": ["a"]}), 400, "`prompt`: must be a text"),
            (json!({"lora": [{"name": "x"}]}), 400, "`lora`: must be a list"),
            (json!({"enable_hr": true}), 400, "`enable_hr`: "),
        ] {
            let error = read(body.clone()).err().unwrap();
            assert!(error.status == status && error.message.starts_with(says), "{body}: {error}");
        }
    }
}
