//! What a checkpoint says of itself: its licence, title and resolution by ModelSpec, in the header of a single file
//! (<https://github.com/Stability-AI/ModelSpec>), or its licence by `license` in the front matter of a folder's model card,
//! `README.md` (<https://huggingface.co/docs/hub/model-cards>).

use std::{
    fs::File,
    io::{BufRead, BufReader, Read},
    path::Path,
};

use super::{Base, Checkpoint};

/// The longest licence, title or resolution that is told, in characters. They are names, not texts.
const MAX_SAID: usize = 100;
/// How far into a model card its front matter is looked for, in bytes.
const MAX_FRONT_MATTER: u64 = 64 << 10;
const FENCE: &str = "---";

impl Checkpoint {
    /// The licence, in the words of whoever made the checkpoint; none where it says nothing.
    pub fn licence(&self) -> Option<String> {
        shortened(&match &self.base {
            Base::Folder(folder) => of_card(&folder.join("README.md"))?,
            Base::File(file) => file.note("modelspec.license")?.to_owned(),
        })
    }

    /// The title that a single file gives itself.
    pub fn title(&self) -> Option<String> {
        shortened(self.file()?.note("modelspec.title")?)
    }

    /// The resolution that a single file says it was trained for, such as `1024x1024`.
    pub fn resolution(&self) -> Option<String> {
        shortened(self.file()?.note("modelspec.resolution")?)
    }
}

fn shortened(said: &str) -> Option<String> {
    let said: String = said.chars().filter(|c| !c.is_control()).take(MAX_SAID).collect();
    Some(said.trim().to_owned()).filter(|said| !said.is_empty())
}

/// `license_name` says more than `license`, which is `other` then.
fn of_card(card: &Path) -> Option<String> {
    // A folder without a card says nothing, as does one whose card cannot be read.
    let text = BufReader::new(File::open(card).ok()?.take(MAX_FRONT_MATTER));
    let mut lines = text.lines().map_while(Result::ok);
    if lines.next()?.trim_end() != FENCE {
        return None;
    }
    let (mut licence, mut name) = (None, None);
    for line in lines.take_while(|line| line.trim_end() != FENCE) {
        // Values of other keys are indented, or items of a list.
        let Some((key, value)) = line.split_once(':') else { continue };
        let value = value.trim().trim_matches(['"', '\'']).to_owned();
        match key {
            "license" => licence = Some(value),
            "license_name" => name = Some(value),
            _ => {}
        }
    }
    match licence.as_deref() {
        Some("other") => name.or(licence),
        _ => licence,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn licence(card: &str) -> Option<String> {
        let folder = tempfile::tempdir().unwrap();
        std::fs::write(
            folder.path().join("model_index.json"),
            r#"{"_class_name": "StableDiffusionPipeline"}"#,
        )
        .unwrap();
        std::fs::write(folder.path().join("README.md"), card).unwrap();
        Checkpoint::in_folder(folder.path()).unwrap().licence()
    }

    #[test]
    fn a_card_names_the_licence_in_its_front_matter() {
        for (card, expected) in [
            ("---\nlicense: openrail++\ntags:\n- a\n---\n# Model", Some("openrail++")),
            ("---\ntags:\n- license: no\nlicense: \"apache-2.0\"\n---\n", Some("apache-2.0")),
            (
                "---\nlicense: other\nlicense_name: flux-1-dev\nlicense_link: LICENSE.md\n---\n",
                Some("flux-1-dev"),
            ),
            ("---\r\nlicense: mit\r\n---\r\n", Some("mit")),
            ("---\ntitle: a\n---\nlicense: mit", None),
            ("# license: mit", None),
            ("---\nlicense:\n---\n", None),
            ("", None),
        ] {
            assert_eq!(licence(card).as_deref(), expected, "{card:?}");
        }
        let long = licence(&format!("---\nlicense: {}\n---\n", "x".repeat(10_000))).unwrap();
        assert_eq!(long.len(), MAX_SAID);
    }
}
