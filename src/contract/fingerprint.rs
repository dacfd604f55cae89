//! By what a request is known: the same id with the same request is the same job, however its sender writes it.
//!
//! What the contract says of a field that is left out may be written down, and nothing changes. Which value a *model* gives
//! to a field (steps, size, scheduler) is not known here.

use sha2::{Digest, Sha256};

use super::{
    Operation, OutputFormat, PromptSyntax,
    operation::{hex, on_body},
    pointing::ON_IT,
};

/// Strength of an image-to-image job that names none.
pub(super) const TRANSFORM_STRENGTH: f64 = 0.8;
/// Strength of an inpaint job that names none.
pub(super) const INPAINT_STRENGTH: f64 = 1.0;
/// JPEG quality of a job that names none.
pub(super) const QUALITY: u8 = 90;
/// Strength of a LoRA that has none.
pub(super) const LORA_STRENGTH: f64 = 1.0;
/// Pictures of a job that says no number.
pub(super) const IMAGES: u32 = 1;

/// By what a request is known, in hexadecimal SHA-256.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Fingerprint {
    plain: String,
    /// As earlier versions have it, which take a default that is spelt out for another request.
    as_sent: String,
    is_written_as_sent: bool,
}

impl Fingerprint {
    /// Of a request that has its id and its seed.
    pub fn of(operation: &Operation) -> Self {
        let mut left_out = operation.clone();
        left_out.leave_out_defaults();
        let as_sent = operation.fingerprint_as_sent();
        // Megabytes are hashed once, where nothing is spelt out.
        let plain = if left_out == *operation { as_sent.clone() } else { left_out.fingerprint_as_sent() };
        Self { plain, as_sent, is_written_as_sent: false }
    }

    /// Of a message that an earlier version may have put into the queue, and may take from it after this one: it is written
    /// as that one would.
    #[must_use]
    pub fn of_the_queue(self) -> Self {
        Self { is_written_as_sent: true, ..self }
    }

    /// What is the same for all ways to write the request.
    pub fn plain(&self) -> &str {
        &self.plain
    }

    /// As earlier versions have it, with defaults that are spelt out.
    pub fn as_sent(&self) -> &str {
        &self.as_sent
    }

    /// What is written into logs and results.
    pub fn written(&self) -> &str {
        if self.is_written_as_sent { &self.as_sent } else { &self.plain }
    }

    /// The other form that may have been written of it.
    pub fn also_written(&self) -> &str {
        if self.is_written_as_sent { &self.plain } else { &self.as_sent }
    }

    /// Whether this was written of the same request.
    pub fn is(&self, written: &str) -> bool {
        self.plain == written || self.as_sent == written
    }
}

impl Operation {
    /// SHA-256 (hexadecimal) of everything that decides the picture; two bodies with one job id must agree in it.
    /// Routing, streaming, webhooks and the deadline are left out, and so are defaults that are spelt out.
    pub fn fingerprint(&self) -> String {
        let mut plain = self.clone();
        plain.leave_out_defaults();
        plain.fingerprint_as_sent()
    }

    /// As [`Self::fingerprint`], with defaults that are spelt out: so earlier versions have it.
    pub fn fingerprint_as_sent(&self) -> String {
        let mut decides = self.clone();
        on_body!(&mut decides, body => {
            body.hive_id = None;
            body.worker_id = None;
            body.stream = None;
            body.preview_every = None;
            body.deadline_ms = None;
            body.webhook_url = None;
            body.webhook_events = None;
        });
        hex(&Sha256::digest(decides.to_json()))
    }

    /// Leaves out what says the same as if it were left out.
    pub fn leave_out_defaults(&mut self) {
        on_body!(self, body => {
            body.negative_prompt.take_if(|text| text.is_empty());
            body.n.take_if(|n| *n == IMAGES);
            body.clip_skip.take_if(|skip| *skip == 0);
            body.guidance_rescale.take_if(|rescale| *rescale == 0.0);
            body.scheduler_options.take_if(|options| options.is_empty());
            body.prompt_syntax.take_if(|syntax| *syntax == PromptSyntax::default());
            for lora in &mut body.loras {
                lora.strength.take_if(|strength| *strength == LORA_STRENGTH);
            }
            if let Some(output) = &mut body.output {
                output.format.take_if(|format| *format == OutputFormat::default());
                output.quality.take_if(|quality| *quality == QUALITY);
            }
            body.output.take_if(|output| *output == super::Output::default());
        });
        match self {
            Self::ImageGeneration(_) => {}
            Self::ImageTransform(body) => drop(body.strength.take_if(|it| *it == TRANSFORM_STRENGTH)),
            Self::ImageInpaint(body) => {
                body.strength.take_if(|it| *it == INPAINT_STRENGTH);
                body.mask_blur.take_if(|blur| *blur == 0);
                let points = body.mask_points.as_ref().map(Vec::len);
                body.mask_labels.take_if(|labels| {
                    points == Some(labels.len()) && labels.iter().all(|label| *label == ON_IT)
                });
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;
    use crate::contract::{Capability, Job, Limits};

    fn parse(capability: Capability, body: &Value) -> Operation {
        let mut operation = Operation::parse(Some(capability), body.to_string().as_bytes()).unwrap();
        operation.settle().unwrap();
        operation
    }

    fn with(mut body: Value, more: &Value) -> Value {
        for (name, value) in more.as_object().unwrap() {
            body[name] = value.clone();
        }
        body
    }

    #[test]
    fn a_default_that_is_spelt_out_is_the_same_request() {
        let lora = json!([{"path": "ink"}]);
        let plain = json!({"prompt": "a", "job_id": "j", "init_image": "AAAA", "loras": lora});
        let spelt = [
            json!({"n": 1}),
            json!({"n": 1.0}),
            json!({"negative_prompt": ""}),
            json!({"negative_prompt": null}),
            json!({"clip_skip": 0}),
            json!({"guidance_rescale": 0}),
            json!({"prompt_syntax": "plain"}),
            json!({"prompt_syntax": ""}),
            json!({"output": {}}),
            json!({"output": {"format": "png"}}),
            json!({"output": {"format": null, "quality": 90}}),
            json!({"loras": [{"path": "ink", "strength": 1}]}),
            json!({"strength": 0.8}),
            json!({"seed": -1}),
            json!({"stream": true, "preview_every": 0, "hive_id": "localhost", "worker_id": ""}),
        ];
        let own = Fingerprint::of(&parse(Capability::Transform, &plain));
        assert_eq!((own.written(), own.also_written()), (own.plain(), own.plain()));
        for more in &spelt {
            let body = with(plain.clone(), more);
            let other = Fingerprint::of(&parse(Capability::Transform, &body));
            assert_eq!(own.plain(), other.plain(), "{more}");
            let job =
                |body: &Value| Job::new(parse(Capability::Transform, body), &Limits::default()).unwrap();
            let (ours, theirs) = (job(&plain), job(&body));
            assert_eq!(
                Job { fingerprint: ours.fingerprint.clone(), ..theirs },
                ours,
                "and draws the same: {more}"
            );
        }
        for more in
            [json!({"n": 2}), json!({"strength": 1}), json!({"negative_prompt": " "}), json!({"loras": []})]
        {
            let other = Fingerprint::of(&parse(Capability::Transform, &with(plain.clone(), &more)));
            assert_ne!(own.plain(), other.plain(), "{more}");
        }
        let mut inpaint = json!({"prompt": "a", "job_id": "j", "init_image": "AAAA", "mask_image": "AAAA"});
        let own = parse(Capability::Inpaint, &inpaint).fingerprint();
        inpaint["strength"] = json!(1);
        assert_eq!(parse(Capability::Inpaint, &inpaint).fingerprint(), own);
    }

    #[test]
    fn what_an_earlier_version_wrote_of_a_request_is_known() {
        // As the version before wrote them: the body with id and seed, without what does not decide the picture.
        let earlier = |body: &str| hex(&Sha256::digest(body));
        let spelt = parse(
            Capability::Generate,
            &json!({"prompt": "a", "job_id": "j", "seed": 7, "n": 1, "negative_prompt": "", "stream": false}),
        );
        let as_sent = earlier(
            r#"{"operation":"image_generation","prompt":"a","negative_prompt":"","seed":7,"job_id":"j","n":1}"#,
        );
        let plain = earlier(r#"{"operation":"image_generation","prompt":"a","seed":7,"job_id":"j"}"#);
        let fingerprint = Fingerprint::of(&spelt);
        assert_eq!((fingerprint.written(), fingerprint.also_written()), (&*plain, &*as_sent));
        assert!(fingerprint.is(&as_sent) && fingerprint.is(&plain) && !fingerprint.is(""));
        let queued = fingerprint.of_the_queue();
        assert_eq!((queued.written(), queued.also_written()), (&*as_sent, &*plain));
        // What queen sends on is the same to every version.
        let mut sent = spelt;
        sent.leave_out_defaults();
        assert_eq!(sent.fingerprint_as_sent(), plain);
    }

    #[test]
    fn the_fingerprint_sees_the_picture_and_not_the_route() {
        let parse =
            |text: &str| Operation::parse(Some(Capability::Generate), text.as_bytes()).unwrap().fingerprint();
        let plain = parse(r#"{"prompt":"a","job_id":"j"}"#);
        assert_eq!(
            plain,
            parse(r#"{"job_id":"j","prompt":"a","worker_id":"w","stream":false,"deadline_ms":5}"#)
        );
        assert_ne!(plain, parse(r#"{"prompt":"b","job_id":"j"}"#));
        assert_ne!(plain, parse(r#"{"prompt":"a","job_id":"j","seed":1}"#));
    }
}
