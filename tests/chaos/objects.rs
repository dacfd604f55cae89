//! The store, read from the files that it consists of.

use std::{collections::BTreeMap, fs, path::Path};

use sha2::{Digest, Sha256};

use super::evidence::Object;

/// Every object in a folder, by its key.
pub fn objects(folder: &Path) -> BTreeMap<String, Object> {
    let mut found = BTreeMap::new();
    collect(folder, folder, &mut found);
    found
}

fn collect(root: &Path, folder: &Path, found: &mut BTreeMap<String, Object>) {
    let Ok(entries) = fs::read_dir(folder) else { return };
    for entry in entries {
        let path = entry.expect("an entry").path();
        if path.is_dir() {
            collect(root, &path, found);
            continue;
        }
        let bytes = fs::read(&path).expect("an object");
        let key = path.strip_prefix(root).expect("below the root").to_str().expect("UTF-8").to_owned();
        let json = key.ends_with(".json").then(|| serde_json::from_slice(&bytes).ok()).flatten();
        found.insert(key, Object { bytes: bytes.len() as u64, sha256: sha256(&bytes), json });
    }
}

pub fn sha256(bytes: &[u8]) -> String {
    Sha256::digest(bytes).iter().map(|byte| format!("{byte:02x}")).collect()
}

#[test]
fn objects_are_read_from_a_folder() {
    let folder = tempfile::TempDir::new().unwrap();
    assert!(objects(&folder.path().join("nothing")).is_empty());
    fs::create_dir_all(folder.path().join("jobs/a")).unwrap();
    fs::write(folder.path().join("jobs/a/0.png"), b"").unwrap();
    fs::write(folder.path().join("jobs/a/result.json"), br#"{"fingerprint":"f"}"#).unwrap();
    let found = objects(folder.path());
    let empty = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";
    assert_eq!(found["jobs/a/0.png"], Object { bytes: 0, sha256: empty.into(), json: None });
    assert_eq!(found["jobs/a/result.json"].json.as_ref().unwrap()["fingerprint"], "f");
}
