//! What the sender of a job should know of the request itself: fields that nobody here looks at, and prompts in a syntax
//! that is not read.

use crate::{
    contract::{Job, PromptSyntax},
    diffusion::prompt::{Looks, looks_like},
};

/// One warning for each kind.
pub fn notes(job: &Job) -> Vec<String> {
    let ignored = (!job.ignored.is_empty()).then(|| {
        let fields: Vec<_> = job.ignored.iter().map(|field| format!("`{field}`")).collect();
        format!("{}: not used; workers post no webhooks", fields.join(", "))
    });
    ignored.into_iter().chain(syntax(job)).collect()
}

/// Both prompts in one warning, with what to set.
fn syntax(job: &Job) -> Option<String> {
    if job.prompt_syntax != PromptSyntax::Plain {
        return None;
    }
    let prompts = [("prompt", Some(&job.prompt)), ("negative_prompt", job.negative_prompt.as_ref())];
    let (mut found, mut advice) = (vec![], vec![]);
    for (field, text) in prompts.into_iter().filter_map(|(field, text)| Some((field, text?))) {
        let looks = looks_like(text);
        if looks.is_empty() {
            continue;
        }
        let parts: Vec<_> = looks.iter().map(|(_, part)| format!("`{part}`")).collect();
        found.push(format!("`{field}`: {}", parts.join(", ")));
        for what in looks.into_iter().map(|(kind, _)| to_set(kind)) {
            if !advice.contains(&what) {
                advice.push(what);
            }
        }
    }
    (!found.is_empty()).then(|| format!("{} drawn as words; {}", found.join("; "), advice.join("; ")))
}

fn to_set(looks: Looks) -> &'static str {
    match looks {
        Looks::Weights => {
            "`\"prompt_syntax\": \"a1111\"` reads weights and BREAK, of Stable Diffusion models"
        }
        Looks::Lora => "LoRAs are named in `loras`: [{\"path\": \"name\", \"strength\": 0.8}]",
        Looks::Embedding => "embeddings of files are read with the syntax `a1111`",
        Looks::Alternation => "alternation and prompt editing are not read here",
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::contract::{Capability, Limits, Operation};

    fn of(body: &serde_json::Value) -> Vec<String> {
        let operation = Operation::parse(Some(Capability::Generate), body.to_string().as_bytes()).unwrap();
        notes(&Job::new(operation, &Limits::default()).unwrap())
    }

    #[test]
    fn a_prompt_in_another_syntax_is_told_once_with_what_to_set() {
        use serde_json::json;
        let prompt = "a cat <lora:ink:0.8>, (red:1.3) BREAK (big:1.2)";
        let told = of(&json!({"prompt": prompt, "negative_prompt": "embedding:bad, (blur:1.4)"}));
        assert_eq!(told.len(), 1, "{told:?}");
        for part in [
            "`prompt`: `<lora:ink:0.8>`, `(red:1.3)`",
            "`negative_prompt`: ",
            "\"prompt_syntax\": \"a1111\"",
            "`loras`",
            "embeddings",
        ] {
            assert!(told[0].contains(part), "{part}: {told:?}");
        }
        assert_eq!(told[0].matches("prompt_syntax").count(), 1, "{told:?}");
        assert_eq!(of(&json!({"prompt": "(red:1.3)", "prompt_syntax": "a1111"})), [""; 0]);
        assert_eq!(of(&json!({"prompt": "a cat (at 12:30, in 16:9), [sic] :)"})), [""; 0]);
    }

    #[test]
    fn webhooks_that_nobody_posts_are_told() {
        let told = of(
            &serde_json::json!({"prompt": "a", "webhook_url": "https://x", "webhook_events": ["complete"]}),
        );
        assert!(
            told.len() == 1 && told[0].starts_with("`webhook_url`, `webhook_events`: not used"),
            "{told:?}"
        );
        assert_eq!(
            of(&serde_json::json!({"prompt": "a", "webhook_url": "", "webhook_events": null})),
            [""; 0]
        );
    }
}
