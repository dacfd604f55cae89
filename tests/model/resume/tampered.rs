//! Progress that nobody's steps led to.

use std::{cell::Cell, sync::Arc};

use proptest::{prelude::*, sample::Index, test_runner::TestRunner};
use sd_worker_rbee::{
    diffusion::{ImageSpec, StableDiffusion},
    models::Progress,
};
use serde_json::{Value, json};

use super::{MODEL, open, transform};

/// Changes one thing that `at` leads to: what is in an object, the length of an array, or a number.
fn mutate(value: &mut Value, at: &[Index], how: usize, by: u64) {
    let (next, rest) = at.split_first().map_or((None, at), |(next, rest)| (Some(next), rest));
    match value {
        Value::Object(entries) => {
            let Some(next) = next.filter(|_| !entries.is_empty()) else { return };
            let name = entries.keys().nth(next.index(entries.len())).cloned().unwrap();
            match how {
                0 if rest.is_empty() => drop(entries.remove(&name)),
                1 if rest.is_empty() => {
                    let moved = entries.remove(&name).unwrap();
                    entries.insert(format!("{name}.{by}"), moved);
                }
                _ => mutate(entries.get_mut(&name).unwrap(), rest, how, by),
            }
        }
        Value::Array(numbers) if how.is_multiple_of(3) => {
            numbers.truncate(numbers.len().saturating_sub(by as usize))
        }
        Value::Array(numbers) if how % 3 == 1 => numbers.extend((0..by).map(|i| json!(i))),
        Value::Array(numbers) => {
            if let (Some(next), false) = (next, numbers.is_empty()) {
                let place = next.index(numbers.len());
                // Infinity, NaN, the largest number, nothing.
                numbers[place] = json!([0x7f80_0000_u32, 0x7fc0_0001, 0x7f7f_ffff, 0][by as usize % 4]);
            }
        }
        Value::Number(_) | Value::Null => {
            let number = value.as_u64().unwrap_or(0);
            *value = json!([number.wrapping_add(by), number.wrapping_sub(by), u64::MAX, 0][how % 4]);
        }
        Value::String(name) => *name = StableDiffusion::schedulers()[by as usize].to_owned(),
        Value::Bool(_) => {}
    }
}

#[test]
fn progress_that_was_tampered_with_is_refused_or_drawn_to_the_end_and_never_panics() {
    let picture = |model: &str, scheduler: Option<&str>| {
        let pipeline = Arc::new(open(model));
        (pipeline, ImageSpec { scheduler: scheduler.map(Into::into), ..transform() })
    };
    let text_pipeline = picture("text", None).0;
    let mut specs = vec![picture("flux/dev", None), picture("sim://?step_ms=0", None)];
    for name in StableDiffusion::schedulers() {
        specs.push((text_pipeline.clone(), ImageSpec { scheduler: Some((*name).into()), ..transform() }));
    }
    let put_down: Vec<Vec<Progress>> = specs
        .iter()
        .map(|(pipeline, spec)| {
            let mut job = pipeline.begin(MODEL, spec).unwrap();
            let mut put_down = vec![job.progress()];
            while !job.is_done() {
                pipeline.advance(MODEL, &mut [&mut job]).unwrap();
                put_down.push(job.progress());
            }
            put_down
        })
        .collect();
    let which = (0..specs.len(), any::<Index>(), 0..specs.len());
    let change = (proptest::collection::vec(any::<Index>(), 1..6), 0_usize..8, 1_u64..8);
    let mut runner = TestRunner::new(ProptestConfig { cases: 300, ..ProptestConfig::default() });
    let (refused, taken) = (Cell::new(0), Cell::new(0));
    let checked = runner.run(&(which, change), |((own, step, other), (at, how, by))| {
        let (pipeline, spec) = &specs[own];
        // One in eight is whole and of another picture.
        let from = if how == 7 { other } else { own };
        let mut progress = serde_json::to_value(&put_down[from][step.index(put_down[from].len())]).unwrap();
        if how != 7 {
            mutate(&mut progress, &at, how, by);
        }
        let mut job = pipeline.begin(MODEL, spec).unwrap();
        let before = job.progress();
        let Ok(progress) = serde_json::from_value::<Progress>(progress) else { return Ok(()) };
        match job.resume(progress) {
            Err(_) => {
                refused.set(refused.get() + 1);
                prop_assert_eq!(job.progress(), before);
            }
            Ok(()) => {
                taken.set(taken.get() + 1);
                while !job.is_done() {
                    pipeline.advance(MODEL, &mut [&mut job]).unwrap();
                }
                // NaN in what a scheduler keeps is found by the picture's end, which says so.
                drop(pipeline.finish(MODEL, &job));
            }
        }
        Ok(())
    });
    checked.unwrap();
    assert!(refused.get() > 30 && taken.get() > 30, "{} {}", refused.get(), taken.get());
}
