//! `org/name[@revision]`: a repository of the hub.

use std::fmt;

/// The longest part of a repository's id, in characters.
const MAX_PART: usize = 96;
/// The longest revision, in characters.
const MAX_REVISION: usize = 256;

/// A repository of models and what of its history is meant.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HubRepo {
    organisation: String,
    name: String,
    revision: Option<String>,
}

impl HubRepo {
    /// Reads `org/name` or `org/name@revision` (a branch, a tag, a commit). None when the text is no such id.
    pub fn parse(text: &str) -> Option<Self> {
        let (id, revision) = match text.split_once('@') {
            Some((id, revision)) => (id, Some(revision)),
            None => (text, None),
        };
        let (organisation, name) = id.split_once('/')?;
        let valid = is_part(organisation) && is_part(name) && revision.is_none_or(is_revision);
        valid.then(|| Self {
            organisation: organisation.into(),
            name: name.into(),
            revision: revision.map(str::to_owned),
        })
    }

    /// The user or organisation that it belongs to.
    pub fn organisation(&self) -> &str {
        &self.organisation
    }

    /// Its name.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// `org/name`.
    pub fn id(&self) -> String {
        format!("{}/{}", self.organisation, self.name)
    }

    /// The branch, tag or commit; `main` when none was named.
    pub fn revision(&self) -> &str {
        self.revision.as_deref().unwrap_or("main")
    }

    /// Its folder in the cache, in the layout that Python's huggingface_hub shares.
    #[cfg(feature = "hub")]
    pub(super) fn cache_folder(&self) -> String {
        format!("models--{}--{}", self.organisation, self.name)
    }
}

impl fmt::Display for HubRepo {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.id())?;
        self.revision.iter().try_for_each(|revision| write!(f, "@{revision}"))
    }
}

/// The hub's own rule for names: they become part of a path in the cache.
fn is_part(text: &str) -> bool {
    let allowed = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.');
    (1..=MAX_PART).contains(&text.len())
        && text.chars().all(allowed)
        && !text.starts_with(['-', '.'])
        && !text.ends_with(['-', '.'])
        && !text.contains("..")
        && !text.contains("--")
}

/// A revision becomes a path below `refs/` in the cache.
fn is_revision(text: &str) -> bool {
    let allowed = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.' | '/' | '+');
    (1..=MAX_REVISION).contains(&text.len())
        && text.chars().all(allowed)
        && text.split('/').all(|part| !part.is_empty() && !part.starts_with('.'))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_id_has_an_organisation_a_name_and_perhaps_a_revision() {
        let repo = HubRepo::parse("stable-diffusion-v1-5/stable-diffusion-v1-5").unwrap();
        assert_eq!((repo.organisation(), repo.revision()), ("stable-diffusion-v1-5", "main"));
        let repo = HubRepo::parse("org/name@refs/pr/7").unwrap();
        assert_eq!((repo.id().as_str(), repo.revision()), ("org/name", "refs/pr/7"));
        assert_eq!(repo.to_string(), "org/name@refs/pr/7");
    }

    #[test]
    fn what_would_lead_out_of_the_cache_is_no_id() {
        for text in
            ["name", "a/b/c", "/a/b", "./a", "../a", "a/..", "a/b@../c", "a/b@/c", "a/b@", "a--b/c", "a/b c"]
        {
            assert_eq!(HubRepo::parse(text), None, "{text}");
        }
    }
}
