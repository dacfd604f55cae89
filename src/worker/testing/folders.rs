//! The folders of a worker stand in the order of a job, and each uses those below it alone.

use std::{
    collections::BTreeSet,
    path::{Path, PathBuf},
};

const ORDER: [&str; 6] = ["process", "take", "job", "own", "resume", "shared"];

fn files(folder: &Path) -> Vec<PathBuf> {
    let entries = std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path());
    let (folders, files): (Vec<_>, Vec<_>) = entries.partition(|path| path.is_dir());
    folders.iter().flat_map(|folder| self::files(folder)).chain(files).collect()
}

/// The first names in `a::b, c::{d, e}, f`.
fn first_names(group: &str) -> Vec<String> {
    let (mut names, mut depth, mut name, mut is_first) = (vec![], 0, String::new(), true);
    for c in group.chars().chain([',']) {
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

/// The folders of the worker that a file names.
fn used(source: &str) -> BTreeSet<String> {
    let mut names = BTreeSet::new();
    for (at, found) in source.match_indices("worker::") {
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
fn a_folder_uses_those_below_it_and_none_above() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("src/worker");
    let mut seen = BTreeSet::new();
    for (place, folder) in ORDER.iter().enumerate() {
        for file in files(&root.join(folder)) {
            let source = std::fs::read_to_string(&file).unwrap();
            // Tests stand on a whole worker.
            let source = source.split("#[cfg(test)]\nmod tests").next().unwrap();
            for name in used(source) {
                let Some(other) = ORDER.iter().position(|folder| *folder == name) else { continue };
                assert!(other >= place, "{} uses {name}", file.display());
                seen.insert((*folder, name));
            }
        }
    }
    assert!(
        seen.contains(&("process", "take".to_owned())) && seen.contains(&("job", "own".to_owned())),
        "{seen:?}"
    );
}

#[test]
fn names_are_read_from_groups_too() {
    let source = "use crate::{bus::X, worker::{job::{A, own}, shared::B}};\nworker::take::C; worker::resume";
    assert_eq!(used(source).into_iter().collect::<Vec<_>>(), ["job", "resume", "shared", "take"]);
}
