//! Large blocks are used again. Alone in its process: the counts are those of all threads.
#![cfg(feature = "worker")]

use std::hint::black_box;

use sd_worker_rbee::allocator::counts;

const BLOCK: u64 = 7 << 20;

#[test]
fn what_was_freed_is_not_asked_of_the_system_again() {
    let before = counts();
    for _ in 0..100 {
        black_box(vec![1u8; BLOCK as usize]);
    }
    let after = counts();
    assert_eq!((after.asked - before.asked, after.fresh - before.fresh), (100 * BLOCK, BLOCK));
}
