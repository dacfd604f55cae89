//! `<lora:name:weight>` in a prompt: A1111's way to name LoRAs, cut out of it (modules/extra_networks.py).

/// A LoRA that a prompt names.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Named {
    pub name: String,
    pub strength: f64,
}

/// A prompt without what names networks.
#[derive(Debug, Clone, Default, PartialEq)]
pub(super) struct Cut {
    /// What is drawn.
    pub text: String,
    /// In the order of the prompt.
    pub loras: Vec<Named>,
    /// What there is to say of them.
    pub warnings: Vec<String>,
}

/// The longest tag, in bytes; what is longer is text.
const MAX_TAG: usize = 512;

/// Cuts them out.
pub(super) fn cut(prompt: &str) -> Cut {
    let mut found = Cut::default();
    let mut rest = prompt;
    while let Some(start) = rest.find('<') {
        let (before, tag) = rest.split_at(start);
        found.text.push_str(before);
        match tag.bytes().take(MAX_TAG).position(|byte| byte == b'>') {
            Some(end) if found.take(&tag[1..end]) => rest = &tag[end + 1..],
            _ => {
                found.text.push('<');
                rest = &tag[1..];
            }
        }
    }
    found.text.push_str(rest);
    found.text = found.text.trim().to_owned();
    found
}

impl Cut {
    /// Takes what is between `<` and `>`, if it names a network.
    fn take(&mut self, tag: &str) -> bool {
        let mut parts = tag.split(':').map(str::trim);
        let kind = parts.next().unwrap_or_default();
        let name = parts.next().unwrap_or_default();
        if name.is_empty() {
            return false;
        }
        match kind {
            "lora" | "lyco" => {}
            "hypernet" => {
                self.warnings.push(format!("prompt: there are no hypernetworks here; `<{tag}>` is left out"));
                return true;
            }
            _ => return false,
        }
        let (mut text, mut unet) = (None, None);
        for (place, part) in parts.enumerate() {
            let (key, value) = part.split_once('=').unwrap_or((if place == 0 { "te" } else { "unet" }, part));
            let Ok(value) = value.trim().parse::<f64>() else { continue };
            match key.trim() {
                "te" if text.is_none() => text = Some(value),
                "unet" if unet.is_none() => unet = Some(value),
                _ => {}
            }
        }
        let strength = unet.or(text).unwrap_or(1.0);
        if text.is_some_and(|text| text != strength) {
            self.warnings.push(format!(
                "prompt: a LoRA has one strength here; `<{tag}>` is added with {strength} everywhere"
            ));
        }
        self.loras.push(Named { name: name.to_owned(), strength });
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn loras_are_cut_out_and_everything_else_stays() {
        let cut = cut("a cat <lora:ink:0.8>, (red:1.3) < 3 <lora:styles/oil> <b>bold</b> <lyco:old:-1>");
        assert_eq!(cut.text, "a cat , (red:1.3) < 3  <b>bold</b>");
        let named: Vec<_> = cut.loras.iter().map(|lora| (lora.name.as_str(), lora.strength)).collect();
        assert_eq!(named, [("ink", 0.8), ("styles/oil", 1.0), ("old", -1.0)]);
        assert!(cut.warnings.is_empty(), "{:?}", cut.warnings);
    }

    #[test]
    fn two_strengths_are_one_and_that_is_said() {
        for (tag, strength, is_said) in [
            ("<lora:a:0.5:0.5>", 0.5, false),
            ("<lora:a:1:0.5>", 0.5, true),
            ("<lora:a:unet=0.3>", 0.3, false),
            ("<lora:a:te=0.2:unet=0.3>", 0.3, true),
            ("<lora:a:dyn=4>", 1.0, false),
            ("<lora:a:much>", 1.0, false),
        ] {
            let cut = cut(tag);
            assert_eq!(
                (cut.loras[0].strength, cut.warnings.len()),
                (strength, usize::from(is_said)),
                "{tag}"
            );
        }
        assert_eq!(cut("a <hypernet:x:1>").warnings.len(), 1);
    }

    #[test]
    fn a_prompt_of_tags_without_end_is_a_text() {
        let long = "<".repeat(100_000);
        assert_eq!(cut(&long).text, long);
        for text in ["<lora:>", "<lora>", "<lora:a", "a > b"] {
            assert_eq!(cut(text).text, text);
        }
        assert_eq!(cut("<lora:a>").text, "");
    }
}
