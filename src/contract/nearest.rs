//! Which of the names that there are somebody may have meant.

/// The name that is nearest to what was written, if one is near.
pub(super) fn nearest<'a>(written: &str, names: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    let written = letters(written);
    let distances = names.into_iter().map(|name| (distance(&written, &letters(name)), name));
    // The first of those that are equally near.
    let (distance, name) = distances.min_by_key(|(distance, _)| *distance)?;
    // A third of the letters may be others; of a short name one.
    (distance <= (written.chars().count() / 3).max(1)).then_some(name)
}

/// A name without what its spellings differ in: `DPM++ 2M Karras` is `dpmpp2mkarras`.
fn letters(name: &str) -> String {
    let name = name.to_lowercase().replace("++", "pp").replace("ancestral", "a");
    name.chars().filter(|c| c.is_alphanumeric()).collect()
}

/// How many letters must be put in, left out or changed to make one of the other (Levenshtein 1965).
fn distance(a: &str, b: &str) -> usize {
    let b: Vec<char> = b.chars().collect();
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, from) in a.chars().enumerate() {
        let mut diagonal = row[0];
        row[0] = i + 1;
        for (j, to) in b.iter().enumerate() {
            let changed = diagonal + usize::from(from != *to);
            diagonal = row[j + 1];
            row[j + 1] = changed.min(row[j] + 1).min(diagonal + 1);
        }
    }
    row[b.len()]
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::contract::SCHEDULERS;

    #[test]
    fn a_name_in_another_spelling_is_found() {
        for (written, name) in [
            ("Euler a", "euler_a"),
            ("euler ancestral", "euler_a"),
            ("DPM++ 2M Karras", "dpmpp_2m_karras"),
            ("DPM++ 2M SDE", "dpmpp_2m_sde"),
            ("UniPC", "unipc"),
            ("dppm", "ddpm"),
            ("LCM", "lcm"),
        ] {
            assert_eq!(nearest(written, SCHEDULERS.iter().copied()), Some(name), "{written}");
        }
        for written in ["", "restart", "x", "🙂"] {
            assert_eq!(nearest(written, SCHEDULERS.iter().copied()), None, "{written}");
        }
        assert_eq!(nearest("a", []), None);
        assert_eq!(
            nearest("guidence_scale", ["guidance_scale", "guidance_interval"]),
            Some("guidance_scale")
        );
    }
}
