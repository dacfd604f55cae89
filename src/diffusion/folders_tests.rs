//! The folders of diffusion/ stand on each other in one order.

use crate::folders::uses_below;

/// From what knows most to what knows least.
const ORDER: [&str; 14] = [
    "families",
    "picture",
    "footprint",
    "networks",
    "autoencoders",
    "text",
    "schedulers",
    "layers",
    "lora",
    "checkpoint",
    "ops",
    "noise",
    "precision",
    "error",
];

#[test]
fn a_folder_uses_those_below_it_and_none_above() {
    let seen = uses_below("diffusion", &ORDER);
    for (above, below) in [("families", "picture"), ("picture", "schedulers"), ("networks", "ops")] {
        assert!(seen.contains(&(above.to_owned(), below.to_owned())), "{seen:?}");
    }
    // A short name of the whole module would hide which folder it is from.
    let short: Vec<_> =
        seen.iter().filter(|(_, name)| !ORDER.contains(&name.as_str()) && name != "DiffusionError").collect();
    assert!(short.is_empty(), "{short:?}");
}
