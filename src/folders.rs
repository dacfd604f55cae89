//! Whether the folders of a module use each other in one direction only, told by their imports. For tests.

use std::{
    collections::BTreeSet,
    path::{Path, PathBuf},
};

/// What each of `order`, the folders and files of `src/<module>` from the top down, uses of the module, by first names.
///
/// # Panics
/// When one uses another above it.
pub fn uses_below(module: &str, order: &[&str]) -> BTreeSet<(String, String)> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("src").join(module);
    let mut seen = BTreeSet::new();
    for (place, folder) in order.iter().enumerate() {
        let path = root.join(folder);
        let all = if path.is_dir() { files(&path) } else { vec![path.with_extension("rs")] };
        // Tests stand on all of it.
        let is_tests = |file: &&PathBuf| file.to_string_lossy().ends_with("tests.rs");
        for file in all.iter().filter(|file| !is_tests(file)) {
            let source = std::fs::read_to_string(file).unwrap();
            let source = source.split("#[cfg(test)]\nmod tests").next().unwrap();
            for name in used(module, source) {
                let other = order.iter().position(|folder| *folder == name);
                assert!(other.is_none_or(|other| other >= place), "{} uses {name}", file.display());
                seen.insert(((*folder).to_owned(), name));
            }
        }
    }
    seen
}

fn files(folder: &Path) -> Vec<PathBuf> {
    let entries = std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path());
    let (folders, files): (Vec<_>, Vec<_>) = entries.partition(|path| path.is_dir());
    folders.iter().flat_map(|folder| self::files(folder)).chain(files).collect()
}

/// The first names in `a::b, c::{d, e}, f`.
fn first_names(group: &str) -> Vec<String> {
    let (mut names, mut depth, mut name, mut is_first) = (vec![], 0, String::new(), true);
    for c in group.trim_end().trim_end_matches(',').chars().chain([',']) {
        match c {
            '{' => depth += 1,
            '}' => depth -= 1,
            ',' if depth == 0 => {
                names.push(std::mem::take(&mut name));
                is_first = true;
            }
            ':' => is_first = false,
            c if depth == 0 && is_first && !c.is_whitespace() => name.push(c),
            _ => {}
        }
    }
    names
}

/// What a file names of a module, by the first names.
fn used(module: &str, source: &str) -> BTreeSet<String> {
    let mut names = BTreeSet::new();
    for (at, found) in source.match_indices(&format!("{module}::")) {
        let rest = &source[at + found.len()..];
        match rest.strip_prefix('{') {
            None => names.extend(first_names(rest.split([':', ';', ' ', '(']).next().unwrap_or_default())),
            Some(group) => {
                let mut depth = 1;
                let end = group.find(|c| {
                    depth += i32::from(c == '{') - i32::from(c == '}');
                    depth == 0
                });
                names.extend(first_names(&group[..end.unwrap_or(group.len())]));
            }
        }
    }
    names
}

#[test]
fn names_are_read_from_groups_too() {
    let source = "use crate::{bus::X, worker::{job::{A, own}, shared::B}};\nworker::take::C; worker::resume";
    assert_eq!(used("worker", source).into_iter().collect::<Vec<_>>(), ["job", "resume", "shared", "take"]);
}
