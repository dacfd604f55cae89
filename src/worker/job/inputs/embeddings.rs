//! The words of files that a job's prompts have: of a worker with a folder of them, in the `a1111` syntax.

use crate::{
    contract::{Job, PromptSyntax},
    diffusion::{
        EmbeddingSpec,
        prompt::{Looks, find_names, looks_like},
    },
    models::LoraFolder,
};

/// Files of the folder that are looked for in a prompt, the first by name.
const MAX_FILES: usize = 4096;
/// Words of files in a job at most: each of them is read.
pub const MAX_EMBEDDINGS: usize = 16;

/// Words, and what the sender should know.
type Found = (Vec<EmbeddingSpec>, Vec<String>);

/// Those words, and what the sender should know. It reads the folder: not to be called where that holds up others.
///
/// # Errors
/// The prompt that has more than [`MAX_EMBEDDINGS`], and why that is too much.
pub fn find(job: &Job, folder: Option<&LoraFolder>) -> Result<Found, (&'static str, String)> {
    if job.prompt_syntax != PromptSyntax::A1111 {
        return Ok((vec![], vec![]));
    }
    let paths = folder.map(|folder| folder.listing(MAX_FILES).0).unwrap_or_default();
    let names: Vec<String> = paths.iter().map(|path| name_of(path).to_lowercase()).collect();
    let names: Vec<&str> = names.iter().map(String::as_str).collect();
    let (mut found, mut warnings): (Vec<EmbeddingSpec>, Vec<String>) = (vec![], vec![]);
    let prompts = [("prompt", Some(&job.prompt)), ("negative_prompt", job.negative_prompt.as_ref())];
    for (field, text) in prompts.into_iter().filter_map(|(field, text)| Some((field, text?))) {
        let (mut rest, mut behind) = (String::new(), 0);
        for (place, name) in find_names(text, &names) {
            rest.push_str(&text[behind..place.start]);
            behind = place.end;
            let path = &paths[name];
            let is_new = found.iter().all(|known| known.name != name_of(path));
            let Some(file) = folder.filter(|_| is_new).and_then(|folder| folder.find(path).ok()) else {
                continue;
            };
            found.push(EmbeddingSpec { name: name_of(path).to_owned(), field, file });
        }
        rest.push_str(&text[behind..]);
        let missing = looks_like(&rest).into_iter().find(|(kind, _)| *kind == Looks::Embedding);
        if let Some((_, part)) = missing {
            let why = match folder {
                Some(_) => "there is no such file in this worker's folder of embeddings",
                None => "this worker has no folder of embeddings",
            };
            warnings.push(format!("`{field}`: `{part}` drawn as words; {why}"));
        }
        if found.len() > MAX_EMBEDDINGS {
            let reason = format!("{} embeddings of files; at most {MAX_EMBEDDINGS} are read", found.len());
            return Err((field, reason));
        }
    }
    Ok((found, warnings))
}

/// What prompts call a file, of its path in the folder.
fn name_of(path: &str) -> &str {
    path.rsplit('/').next().unwrap_or(path)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::contract::{Capability, Limits, Operation};

    fn job(prompt: &str, negative: &str, syntax: &str) -> Job {
        let body =
            serde_json::json!({"prompt": prompt, "negative_prompt": negative, "prompt_syntax": syntax});
        let operation = Operation::parse(Some(Capability::Generate), body.to_string().as_bytes()).unwrap();
        Job::new(operation, &Limits::default()).unwrap()
    }

    #[test]
    fn files_are_found_by_the_names_in_both_prompts_and_what_is_not_there_is_told() {
        let folder = tempfile::TempDir::new().unwrap();
        std::fs::create_dir(folder.path().join("negative")).unwrap();
        for file in ["ink.safetensors", "negative/EasyNegative.safetensors", "old.pt"] {
            std::fs::write(folder.path().join(file), "").unwrap();
        }
        let folder = LoraFolder::new(folder.path().to_owned());
        let wanted = job("a (INK:1.2), ink, embedding:gone", "easynegative, thinking", "a1111");
        let (found, warnings) = find(&wanted, Some(&folder)).unwrap();
        let names: Vec<_> = found.iter().map(|word| (word.field, word.name.as_str())).collect();
        assert_eq!(names, [("prompt", "ink"), ("negative_prompt", "EasyNegative")]);
        assert!(found[1].file.ends_with("negative/EasyNegative.safetensors"));
        assert_eq!(warnings.len(), 1, "{warnings:?}");
        assert!(warnings[0].contains("`embedding:gone`"), "{warnings:?}");
        let plain = job("ink", "", "plain");
        assert_eq!(find(&plain, Some(&folder)).unwrap(), (vec![], vec![]));
        let (found, warnings) = find(&wanted, None).unwrap();
        assert!(found.is_empty() && warnings[0].contains("no folder"), "{warnings:?}");
    }
}
