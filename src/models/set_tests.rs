//! Which models are in memory, with simulations of all sizes.

use candle_core::Device;

use super::*;
use crate::models::MemoryLimit;

const MIB: u64 = 1 << 20;

fn open(sources: &[&str], memory: u64) -> Result<ModelSet, ModelError> {
    let sources: Vec<ModelSource> = sources.iter().map(|source| source.parse().unwrap()).collect();
    let options = ModelOptions { memory: Some(memory), ..ModelOptions::new(&Device::Cpu) };
    ModelSet::open(&sources, options)
}

fn three(memory: u64) -> ModelSet {
    open(
        &["a=sim://?memory=4MiB&load_ms=20", "b=sim://?memory=4MiB&load_ms=20", "c=sim://?memory=4MiB"],
        memory,
    )
    .unwrap()
}

#[test]
fn models_are_loaded_at_start_in_their_order_while_they_fit() {
    assert_eq!(three(12 * MIB).in_memory(), ["a", "b", "c"]);
    assert_eq!(three(11 * MIB).in_memory(), ["a", "b"]);
    assert_eq!(three(11 * MIB).catalog().len(), 3);
    // A later one that fits is loaded though an earlier one does not.
    let set = open(&["a=sim://?memory=6MiB", "b=sim://?memory=6MiB", "c=sim://?memory=2MiB"], 8 * MIB);
    assert_eq!(set.unwrap().in_memory(), ["a", "c"]);
}

#[test]
fn those_that_are_named_are_loaded_at_start_and_no_others() {
    let open = |memory: u64, preload: &[&str]| {
        let sources = ["a=sim://?memory=4MiB", "b=sim://?memory=6MiB", "c=sim://?memory=1MiB"];
        let preload = preload.iter().map(|&name| name.to_owned()).collect();
        let options = ModelOptions { memory: Some(memory), preload, ..ModelOptions::new(&Device::Cpu) };
        ModelSet::open(&sources.map(|source| source.parse().unwrap()), options)
    };
    assert_eq!(open(20 * MIB, &["b", "c", "b"]).unwrap().in_memory(), ["b", "c"]);
    let text = open(9 * MIB, &["c", "b", "a"]).err().unwrap().to_string();
    for part in ["`a`", "4.0 MiB (4194304 bytes)", "2.0 MiB (2097152 bytes)", "beside c, b", "--preload"] {
        assert!(text.contains(part), "{text}");
    }
    assert_eq!(open(20 * MIB, &["d"]).err().unwrap().code(), ErrorCode::UnsupportedModel);
}

#[test]
fn a_model_is_at_hand_while_it_is_in_memory_or_on_its_way_and_is_not_to_go() {
    let set = three(8 * MIB);
    assert_eq!(set.at_hand(), ["a", "b"]);
    let held = set.hold("b").unwrap();
    let reserved = set.reserve("c").unwrap().unwrap();
    assert_eq!(set.at_hand(), ["b", "c"]);
    assert_eq!(set.in_memory(), ["b"]);
    set.unload("b").unwrap();
    assert_eq!(set.at_hand(), ["c"]);
    assert_eq!(set.in_memory(), ["b"]);
    drop((held, set.load(reserved).unwrap()));
}

#[test]
fn the_least_recently_used_model_goes_first() {
    let set = three(8 * MIB);
    assert!(set.hold("a").unwrap().load.is_none());
    set.hold("c").unwrap();
    assert_eq!(set.in_memory(), ["a", "c"]);
    let load = set.hold("b").unwrap().load.unwrap();
    assert!(load >= Duration::from_millis(20), "{load:?}");
    assert_eq!(set.in_memory(), ["c", "b"]);
}

#[test]
fn a_model_that_is_held_stays() {
    let set = three(8 * MIB);
    let held = set.hold("a").unwrap();
    set.hold("b").unwrap();
    set.hold("c").unwrap();
    assert_eq!(set.in_memory(), ["a", "c"]);
    let other = set.hold("c").unwrap();
    assert!(!set.has_room_for("b") && set.has_room_for("a"));
    let error = set.hold("b").err().unwrap();
    assert_eq!(error.code(), ErrorCode::OutOfMemory);
    let text = error.to_string();
    for part in ["`b`", "4.0 MiB (4194304 bytes)", "0 bytes are free", "a, c"] {
        assert!(text.contains(part), "{text}");
    }
    drop((held, other));
    assert!(set.has_room_for("b"));
    set.hold("b").unwrap();
}

#[test]
fn a_model_that_is_larger_than_its_limit_is_refused_with_both_numbers() {
    let text = open(&["a=sim://", "big=sim://?memory=5MiB"], 4 * MIB).err().unwrap().to_string();
    for part in ["`big`", "5.0 MiB (5242880 bytes)", "4.0 MiB (4194304 bytes)", "--model-memory"] {
        assert!(text.contains(part), "{text}");
    }
    let text = open(&["big=sim://?memory=8191TiB"], u64::MAX).err().unwrap().to_string();
    assert!(text.contains("free memory of this machine"), "{text}");
}

fn limited(sources: &[&str], bytes: u64, memory: Option<u64>) -> Result<ModelSet, ModelError> {
    let sources: Vec<ModelSource> = sources.iter().map(|source| source.parse().unwrap()).collect();
    let limit = Some(MemoryLimit { bytes, max_pixels: 1 << 20, pictures: 1 });
    ModelSet::open(&sources, ModelOptions { memory, limit, ..ModelOptions::new(&Device::Cpu) })
}

#[test]
fn what_the_memory_limit_leaves_beside_a_picture_is_for_weights() {
    let two = ["a=sim://?memory=40MiB", "b=sim://?memory=40MiB"];
    assert_eq!(limited(&two, 300 * MIB, None).unwrap().in_memory(), ["a", "b"]);
    assert_eq!(limited(&two, 270 * MIB, None).unwrap().in_memory(), ["a"]);
    assert_eq!(limited(&two, 300 * MIB, Some(50 * MIB)).unwrap().in_memory(), ["a"]);
    let text = limited(&two, 220 * MIB, None).err().unwrap().to_string();
    for part in ["`a`", "40.0 MiB (", "192.0 MiB (", "--memory-limit is 220.0 MiB (", "1048576 pixels"] {
        assert!(text.contains(part), "{text}");
    }
}

#[test]
fn a_checkpoint_over_the_memory_limit_is_refused_with_the_pixels_that_would_fit() {
    // Memory is counted by threads.
    let two = rayon::ThreadPoolBuilder::new().num_threads(2).build().unwrap();
    two.install(refuses_with_pixels);
}

fn refuses_with_pixels() {
    let source = concat!("tiny=", env!("CARGO_MANIFEST_DIR"), "/tests/data/parity/text");
    let text = limited(&[source], 370 * MIB, None).err().unwrap().to_string();
    let (_, rest) = text.split_once("--max-pixels ").expect(&text);
    let pixels: u64 = rest.split(',').next().unwrap().parse().expect(&text);
    assert!((1 << 10..1 << 20).contains(&pixels), "{text}");
    let limit = Some(MemoryLimit { bytes: 370 * MIB, max_pixels: pixels, pictures: 1 });
    let options = ModelOptions { limit, ..ModelOptions::new(&Device::Cpu) };
    assert!(ModelSet::open(&[source.parse().unwrap()], options).is_ok());
    // Where even a small picture is too much, none is offered, and none that is larger than what is refused.
    for (source, limit) in [(source, 220), (source, 100), ("a=sim://", 100)] {
        let text = limited(&[source], limit * MIB, None).err().unwrap().to_string();
        let says = text.contains(&format!("--memory-limit is {limit}.0 MiB"));
        assert!(says && !text.contains("--max-pixels 1"), "{text}");
    }
}

#[test]
fn others_can_be_held_while_a_model_is_read_into_its_room_and_it_is_read_once() {
    let set =
        open(&["a=sim://?memory=4MiB", "b=sim://?memory=4MiB&load_ms=300", "c=sim://?memory=4MiB"], 8 * MIB);
    let set = set.unwrap();
    set.put_out_idle();
    let reserved = set.reserve("b").unwrap().unwrap();
    assert!(set.reserve("b").unwrap().is_none(), "it is on its way");
    assert!(set.hold_loaded("b").unwrap().is_none());
    let begun = Instant::now();
    std::thread::scope(|scope| {
        let loading = scope.spawn(|| set.load(reserved).unwrap());
        // Its room is taken, and what is left is for one other.
        let held = set.hold("a").unwrap();
        assert!(begun.elapsed() < Duration::from_millis(250));
        let error = set.hold("c").err().unwrap();
        assert_eq!(error.code(), ErrorCode::OutOfMemory);
        assert!(error.to_string().contains("b"), "{error}");
        // Who wants the same model waits for it, and does not read it again.
        assert!(set.hold("b").unwrap().load.is_none());
        assert!(begun.elapsed() >= Duration::from_millis(250));
        drop((held, loading.join().unwrap()));
    });
    assert_eq!(set.in_memory(), ["a", "b"]);
}

#[test]
fn every_idle_model_can_be_put_out_and_one_that_is_held_stays() {
    let set = three(12 * MIB);
    let held = set.hold("b").unwrap();
    assert!(set.put_out_idle());
    assert_eq!(set.in_memory(), ["b"]);
    assert!(!set.put_out_idle());
    drop(held);
}

#[test]
fn a_name_that_is_none_is_an_unknown_model() {
    let error = three(12 * MIB).hold("d").err().unwrap();
    assert_eq!(error.code(), ErrorCode::UnsupportedModel);
}

#[test]
fn a_model_that_was_replaced_while_it_was_out_of_memory_has_another_identity_when_it_is_loaded_again() {
    let folder = tempfile::tempdir().unwrap();
    let file = "unet/diffusion_pytorch_model.safetensors";
    for part in ["unet", "vae", "text_encoder", "tokenizer", "scheduler", "."] {
        std::fs::create_dir_all(folder.path().join(part)).unwrap();
        for entry in std::path::Path::new("models/tiny-shapes").join(part).read_dir().unwrap().flatten() {
            if entry.path().is_file() {
                std::fs::copy(entry.path(), folder.path().join(part).join(entry.file_name())).unwrap();
            }
        }
    }
    let source = format!("m={}", folder.path().display()).parse().unwrap();
    let set = ModelSet::open(&[source], ModelOptions::new(&Device::Cpu)).unwrap();
    let identity = set.catalog().remove(0).identity;
    let first = identity.loaded();
    let mut bytes = std::fs::read(folder.path().join(file)).unwrap();
    let last = bytes.len() - 2;
    bytes[last] ^= 1;
    std::fs::write(folder.path().join("new"), bytes).unwrap();
    std::fs::rename(folder.path().join("new"), folder.path().join(file)).unwrap();
    // What is in memory is still the first.
    drop(set.hold("m").unwrap());
    assert_eq!(identity.loaded(), first);
    assert_eq!(identity.of_files().unwrap().differences(&first), ["the weights of `unet`"]);
    set.put_out_idle();
    drop(set.hold("m").unwrap());
    assert_eq!(identity.loaded().differences(&first), ["the weights of `unet`"]);
    assert_eq!(*identity.loaded(), identity.of_files().unwrap());
}
