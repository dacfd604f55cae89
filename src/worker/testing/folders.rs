//! The folders of a worker stand in the order of a job, and each uses those below it alone.

use crate::folders::uses_below;

#[test]
fn a_folder_uses_those_below_it_and_none_above() {
    let seen = uses_below("worker", &["process", "take", "job", "own", "resume", "shared"]);
    for (above, below) in [("process", "take"), ("job", "own")] {
        assert!(seen.contains(&(above.to_owned(), below.to_owned())), "{seen:?}");
    }
}
