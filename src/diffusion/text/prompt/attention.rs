//! The brackets of the `a1111` syntax: which weight each piece of a prompt has.
//!
//! `(a)` times 1.1, `[a]` divided by 1.1, `(a:1.3)` times 1.3; nested brackets multiply; `\(`, `\)`, `\[`, `\]`, `\\` are
//! the characters themselves and any other backslash is dropped. Round and square brackets are matched apart from each
//! other. A bracket that is not closed reaches to the end, one that was not opened is a character. `BREAK` ends a chunk.
//!
//! One difference: in the web UI a `BREAK` inside of brackets turns into a word of negative weight. Here it is a break.

/// The largest weight, either sign, after nested brackets are multiplied: far above what pictures survive, far below
/// what overflows in half precision.
pub const MAX_WEIGHT: f64 = 1000.0;

const ROUND: f64 = 1.1;
const SQUARE: f64 = 1.0 / 1.1;
const BREAK: &str = "BREAK";

/// A part of a prompt.
#[derive(Debug, Clone, PartialEq)]
pub enum Piece {
    /// Words and their weight.
    Text {
        /// As typed, without brackets, weights and escapes; may be empty.
        text: String,
        /// Finite, at most [`MAX_WEIGHT`] from zero.
        weight: f64,
    },
    /// What follows starts a chunk.
    Break,
}

/// A weight that cannot be used.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
pub enum WeightError {
    /// Only digits and dots, but no number.
    #[error("the weight `{0}` is no number")]
    NotANumber(String),
    /// Too far from zero.
    #[error("the weight of `{text}` is {weight}; it is at most {MAX_WEIGHT} from zero")]
    TooLarge {
        /// The words.
        text: String,
        /// All brackets around them multiplied.
        weight: f64,
    },
}

/// The pieces of a prompt, neighbours of equal weight joined. An empty prompt has none.
///
/// # Errors
/// [`WeightError`].
pub fn parse(prompt: &str) -> Result<Vec<Piece>, WeightError> {
    let mut parser = Parser::default();
    let mut rest = prompt;
    while !rest.is_empty() {
        rest = parser.take(rest)?;
    }
    parser.finish()
}

/// What the web UI reads and we do not, by name.
pub(super) fn not_of_the_syntax(prompt: &str) -> Option<&'static str> {
    let bracketed = |part: &str| part.split_once(']').map_or("", |(inside, _)| inside).to_owned();
    let square: Vec<String> = prompt.split('[').skip(1).map(bracketed).collect();
    if prompt.contains("<lora:") || prompt.contains("<lyco:") || prompt.contains("<hypernet:") {
        Some("`<lora:..>`")
    } else if square.iter().any(|inside| inside.contains('|')) {
        Some("alternation (`[a|b]`)")
    } else if square.iter().any(|inside| edits(inside)) {
        Some("prompt editing (`[from:to:when]`)")
    } else if prompt.split_whitespace().any(|word| word == "AND") {
        Some("`AND`")
    } else {
        None
    }
}

/// `to:when` or `from:to:when`.
pub(super) fn edits(inside: &str) -> bool {
    inside.rsplit_once(':').is_some_and(|(_, when)| when.trim().parse::<f64>().is_ok())
}

/// Pieces so far, and where in them each open bracket begins.
#[derive(Default)]
struct Parser {
    pieces: Vec<Piece>,
    round: Vec<usize>,
    square: Vec<usize>,
}

impl Parser {
    /// Takes the first element of `rest`, which is not empty, and returns what is behind it.
    fn take<'a>(&mut self, rest: &'a str) -> Result<&'a str, WeightError> {
        let first = rest.chars().next().unwrap_or_default();
        let behind = &rest[first.len_utf8()..];
        match first {
            '\\' => {
                let literal = behind.chars().next().filter(|c| r"()[]\".contains(*c));
                self.push(literal.map(String::from).unwrap_or_default());
                return Ok(&behind[literal.map_or(0, char::len_utf8)..]);
            }
            '(' => self.round.push(self.pieces.len()),
            '[' => self.square.push(self.pieces.len()),
            ':' => return self.weight(rest),
            ')' => match self.round.pop() {
                Some(start) => self.multiply(start, ROUND),
                None => self.push(")".into()),
            },
            ']' => match self.square.pop() {
                Some(start) => self.multiply(start, SQUARE),
                None => self.push("]".into()),
            },
            _ => {
                let end = rest.find(['\\', '(', ')', '[', ']', ':']).unwrap_or(rest.len());
                self.words(&rest[..end]);
                return Ok(&rest[end..]);
            }
        }
        Ok(behind)
    }

    /// `:1.3)` closes a round bracket; any other colon is a character.
    fn weight<'a>(&mut self, rest: &'a str) -> Result<&'a str, WeightError> {
        let Some((number, length)) = number_and_bracket(&rest[1..]) else {
            self.push(":".into());
            return Ok(&rest[1..]);
        };
        let (whole, behind) = rest.split_at(1 + length);
        match self.round.pop() {
            Some(start) => {
                let weight = number.parse().map_err(|_| WeightError::NotANumber(number.into()))?;
                self.multiply(start, weight);
            }
            None => self.push(whole.into()),
        }
        Ok(behind)
    }

    fn words(&mut self, mut words: &str) {
        while let Some((before, behind)) = split_at_break(words) {
            self.push(before.trim_end().into());
            self.pieces.push(Piece::Break);
            words = behind.trim_start();
        }
        self.push(words.into());
    }

    fn push(&mut self, text: String) {
        self.pieces.push(Piece::Text { text, weight: 1.0 });
    }

    fn multiply(&mut self, start: usize, factor: f64) {
        for piece in &mut self.pieces[start..] {
            if let Piece::Text { weight, .. } = piece {
                *weight *= factor;
            }
        }
    }

    fn finish(mut self) -> Result<Vec<Piece>, WeightError> {
        while let Some(start) = self.round.pop() {
            self.multiply(start, ROUND);
        }
        while let Some(start) = self.square.pop() {
            self.multiply(start, SQUARE);
        }
        let mut joined: Vec<Piece> = Vec::new();
        for piece in self.pieces {
            if let Piece::Text { text, weight } = &piece {
                if weight.is_nan() || weight.abs() > MAX_WEIGHT {
                    return Err(WeightError::TooLarge { text: text.clone(), weight: *weight });
                }
                if let Some(Piece::Text { text: last, weight: same }) = joined.last_mut()
                    && same == weight
                {
                    last.push_str(text);
                    continue;
                }
            }
            joined.push(piece);
        }
        Ok(joined)
    }
}

/// ` +1.3 )` at the beginning: the number's text, and the length of it all in bytes.
fn number_and_bracket(text: &str) -> Option<(&str, usize)> {
    let number = text.trim_start();
    let unsigned = number.strip_prefix(['+', '-']).unwrap_or(number);
    let behind = unsigned.trim_start_matches(|c: char| c.is_ascii_digit() || c == '.');
    if behind.len() == unsigned.len() {
        return None;
    }
    let closed = behind.trim_start().strip_prefix(')')?;
    Some((&number[..number.len() - behind.len()], text.len() - closed.len()))
}

/// Before and behind the first `BREAK` that is a word of its own.
fn split_at_break(words: &str) -> Option<(&str, &str)> {
    let in_a_word = |c: char| c.is_alphanumeric() || c == '_';
    words.match_indices(BREAK).find_map(|(at, _)| {
        let (before, behind) = (&words[..at], &words[at + BREAK.len()..]);
        let alone = !before.ends_with(in_a_word) && !behind.starts_with(in_a_word);
        alone.then_some((before, behind))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parsed(prompt: &str) -> Vec<(String, f64)> {
        let pieces = parse(prompt).unwrap();
        let pair = |piece| match piece {
            Piece::Text { text, weight } => (text, (weight * 1e6).round() / 1e6),
            Piece::Break => ("BREAK".into(), -1.0),
        };
        pieces.into_iter().map(pair).collect()
    }

    fn is_read_as(prompt: &str, expected: &[(&str, f64)]) {
        let expected: Vec<_> = expected.iter().map(|(text, weight)| ((*text).to_owned(), *weight)).collect();
        assert_eq!(parsed(prompt), expected, "{prompt}");
    }

    #[test]
    fn brackets_weigh_what_is_in_them() {
        is_read_as("normal text", &[("normal text", 1.0)]);
        is_read_as("an (important) word", &[("an ", 1.0), ("important", 1.1), (" word", 1.0)]);
        is_read_as("[less]", &[("less", 0.909091)]);
        is_read_as("((a))", &[("a", 1.21)]);
        is_read_as("(a: +0.5 )", &[("a", 0.5)]);
        is_read_as("(a:-1)(b:.5)(c:2.)", &[("a", -1.0), ("b", 0.5), ("c", 2.0)]);
        is_read_as("(unnecessary)(parens)", &[("unnecessaryparens", 1.1)]);
        is_read_as(
            "a (((house:1.3)) [on] a (hill:0.5), sun, (((sky))).",
            &[
                ("a ", 1.0),
                ("house", 1.573),
                (" ", 1.1),
                ("on", 1.0),
                (" a ", 1.1),
                ("hill", 0.55),
                (", sun, ", 1.1),
                ("sky", 1.4641),
                (".", 1.1),
            ],
        );
    }

    #[test]
    fn a_bracket_without_its_partner_reaches_to_the_end_or_is_a_character() {
        is_read_as("(unbalanced", &[("unbalanced", 1.1)]);
        is_read_as("a [b (c", &[("a ", 1.0), ("b ", 0.909091), ("c", 1.0)]);
        is_read_as("a) b] :1.3) c", &[("a) b] :1.3) c", 1.0)]);
        is_read_as("(a [b) c]", &[("a ", 1.1), ("b", 1.0), (" c", 0.909091)]);
    }

    #[test]
    fn escaped_brackets_are_characters_and_other_backslashes_are_dropped() {
        is_read_as(r"\(literal\]", &[("(literal]", 1.0)]);
        is_read_as(r"a\\b\c \[d\)", &[(r"a\bc [d)", 1.0)]);
        is_read_as(r"(a\):1.5)\", &[("a)", 1.5), ("", 1.0)]);
    }

    #[test]
    fn what_is_no_number_is_text() {
        is_read_as("(a:1e99)", &[("a:1e99", 1.1)]);
        is_read_as("(a:nan)", &[("a:nan", 1.1)]);
        is_read_as("(a:b:1.2)", &[("a:b", 1.2)]);
        is_read_as("ratio 16:9", &[("ratio 16:9", 1.0)]);
    }

    #[test]
    fn a_weight_is_a_number_within_bounds() {
        assert_eq!(parse("(a:1.2.3)"), Err(WeightError::NotANumber("1.2.3".into())));
        assert_eq!(parse("(a:.)"), Err(WeightError::NotANumber(".".into())));
        let nines = "9".repeat(400);
        for prompt in
            [format!("(a:{nines})"), format!("(a:-{nines})"), format!("({nines}:0):1.1)((a:{nines}):0)")]
        {
            assert!(matches!(parse(&prompt), Err(WeightError::TooLarge { .. })), "{prompt}");
        }
        assert!(parse(&"(".repeat(60)).is_ok());
        assert!(matches!(parse(&("(".repeat(4000) + "a")), Err(WeightError::TooLarge { .. })));
    }

    #[test]
    fn break_as_a_word_of_its_own_ends_a_chunk() {
        is_read_as("a  BREAK b", &[("a", 1.0), ("BREAK", -1.0), ("b", 1.0)]);
        is_read_as("BREAKFAST aBREAK _BREAK break", &[("BREAKFAST aBREAK _BREAK break", 1.0)]);
        is_read_as("(a BREAK b:1.2)", &[("a", 1.2), ("BREAK", -1.0), ("b", 1.2)]);
        is_read_as("BREAK BREAK", &[("", 1.0), ("BREAK", -1.0), ("", 1.0), ("BREAK", -1.0), ("", 1.0)]);
    }

    #[test]
    fn what_belongs_to_the_web_ui_alone_is_noticed() {
        assert_eq!(not_of_the_syntax("a [b] (c:1.2), [d:e], h] AN[D i"), None);
        assert!(not_of_the_syntax("a [cat:dog:0.5]").unwrap().contains("editing"));
        assert!(not_of_the_syntax("a [dog:10]").unwrap().contains("editing"));
        assert!(not_of_the_syntax("a [cat|dog]").unwrap().contains("alternation"));
        assert!(not_of_the_syntax("a cat AND a dog").unwrap().contains("AND"));
        assert!(not_of_the_syntax("a <lora:x:1>").unwrap().contains("lora"));
    }
}
