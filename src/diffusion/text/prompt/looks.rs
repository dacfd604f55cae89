//! What in a prompt that is read as words looks like the syntax of another program.

use super::attention::edits;

/// A syntax that somebody may have meant.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Looks {
    /// `(word:1.3)`, BREAK.
    Weights,
    /// `<lora:name:0.8>`.
    Lora,
    /// `embedding:name`.
    Embedding,
    /// `[a|b]`, `[from:to:when]`.
    Alternation,
}

/// A weight above this is none: a time or a ratio is more likely.
const MOST_LIKELY_WEIGHT: f64 = 3.0;
/// The most of a part that is repeated, in characters.
const MAX_SHOWN: usize = 40;

/// Of each kind that a prompt seems to have: the first such part of it.
pub fn looks_like(prompt: &str) -> Vec<(Looks, String)> {
    let found = [
        (Looks::Lora, tag(prompt)),
        (Looks::Weights, weight(prompt).or_else(|| line_break(prompt))),
        (Looks::Alternation, alternation(prompt)),
        (Looks::Embedding, embedding(prompt)),
    ];
    let shown = |part: &str| match part.char_indices().nth(MAX_SHOWN) {
        Some((end, _)) => format!("{}...", &part[..end]),
        None => part.to_owned(),
    };
    found.into_iter().filter_map(|(kind, part)| Some((kind, shown(part?)))).collect()
}

/// `<lora:name:0.8>` and its kin.
fn tag(prompt: &str) -> Option<&str> {
    let starts = ["<lora:", "<lyco:", "<hypernet:"];
    let at = starts.iter().filter_map(|start| prompt.find(start)).min()?;
    let end = prompt[at..].find('>').map_or(prompt.len(), |end| at + end + 1);
    Some(&prompt[at..end])
}

/// `(word:1.3)`: words, and a small number before the bracket that closes.
fn weight(prompt: &str) -> Option<&str> {
    prompt.match_indices(')').find_map(|(end, _)| {
        let start = prompt[..end].rfind('(')?;
        let (words, number) = prompt[start + 1..end].rsplit_once(':')?;
        let number = number.trim();
        let value: f64 = number.parse().ok().filter(|value: &f64| value.is_finite())?;
        let is_weight = number.contains('.') || value.abs() <= MOST_LIKELY_WEIGHT;
        (is_weight && words.chars().any(char::is_alphabetic)).then_some(&prompt[start..=end])
    })
}

/// `BREAK` as a word of its own.
fn line_break(prompt: &str) -> Option<&str> {
    prompt.split(|c: char| !c.is_alphanumeric()).find(|word| *word == "BREAK")
}

/// `[a|b]` and `[from:to:when]`.
fn alternation(prompt: &str) -> Option<&str> {
    prompt.match_indices(']').find_map(|(end, _)| {
        let start = prompt[..end].rfind('[')?;
        let inside = &prompt[start + 1..end];
        (inside.contains('|') || edits(inside)).then_some(&prompt[start..=end])
    })
}

/// `embedding:name`.
fn embedding(prompt: &str) -> Option<&str> {
    let words = prompt.split(|c: char| c.is_whitespace() || ",()[]".contains(c));
    words.into_iter().find(|word| word.strip_prefix("embedding:").is_some_and(|name| !name.is_empty()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_looks_like_another_syntax_is_found_and_what_is_text_is_not() {
        for (prompt, kind, part) in [
            ("a <lora:ink:0.8> b", Looks::Lora, "<lora:ink:0.8>"),
            ("a <lora:ink", Looks::Lora, "<lora:ink"),
            ("a (red cat:1.3), b", Looks::Weights, "(red cat:1.3)"),
            ("((a:1.1) b:2)", Looks::Weights, "(a:1.1)"),
            ("a BREAK b", Looks::Weights, "BREAK"),
            ("a [cat|dog]", Looks::Alternation, "[cat|dog]"),
            ("a [cat:dog:0.5]", Looks::Alternation, "[cat:dog:0.5]"),
            ("embedding:EasyNegative, blur", Looks::Embedding, "embedding:EasyNegative"),
        ] {
            assert_eq!(looks_like(prompt), [(kind, part.to_owned())], "{prompt}");
        }
        for prompt in [
            "",
            "a (red) cat [sic] <3",
            "a clock (at 12:30) in (16:9) or (ratio 16:9)",
            "BREAKFAST, breakdancing, embedding: none",
            ":) (: ]|[ )(",
            "\u{1f642}(\u{e9}:)",
        ] {
            assert!(looks_like(prompt).is_empty(), "{prompt}: {:?}", looks_like(prompt));
        }
        assert!(looks_like(&format!("<lora:{}>", "\u{e9}".repeat(4000)))[0].1.len() < 100);
    }
}
