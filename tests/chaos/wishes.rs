//! The jobs of a run: drawn from a small number of requests, so that many ask for the same picture.

use std::time::Duration;

use serde_json::{Value, json};

use super::random::Random;

/// The simulated model.
pub const SIM: &str = "sim";
/// The small checkpoint.
pub const SHAPES: &str = "tiny-shapes";
/// A simulated model that kills every job.
pub const POISON: &str = "poison";

/// What a job is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Kind {
    /// It must end in its pictures.
    Plain,
    /// It has a deadline, which may be too short.
    Deadline,
    /// Its sender cancels it.
    Cancel,
    /// It can never be done, and nobody should try twice.
    Bad,
    /// It fails whoever takes it.
    Poison,
}

/// How the sender finds out how it ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Follow {
    /// Not at all.
    No,
    /// GET /v1/jobs/{id}, again and again.
    Poll,
    /// The stream, connecting again after each cut.
    Stream,
    /// The stream, leaving it by itself again and again.
    FickleStream,
}

/// A job that is to be sent.
#[derive(Debug, Clone)]
pub struct Wish {
    pub id: String,
    pub kind: Kind,
    pub body: Value,
    pub images: u32,
    pub previews: bool,
    /// The same in every job that asks for the same pictures.
    pub twin: String,
    pub follow: Follow,
    /// How long after it was accepted it is cancelled.
    pub cancel_after: Option<Duration>,
}

impl Wish {
    /// The job of this number.
    pub fn draw(number: u32, shapes_percent: u64, random: &mut Random) -> Self {
        let kinds =
            [(76, Kind::Plain), (7, Kind::Deadline), (9, Kind::Cancel), (6, Kind::Bad), (2, Kind::Poison)];
        let kind = *random.weighted(&kinds);
        let model = match kind {
            Kind::Poison => POISON,
            Kind::Plain | Kind::Cancel if random.chance(shapes_percent) => SHAPES,
            _ => SIM,
        };
        let mut wish = Self::picture(&format!("c{number}"), kind, model, random);
        match kind {
            Kind::Plain | Kind::Poison => {}
            Kind::Deadline => {
                wish.body["deadline_ms"] = json!(*random.pick(&[1, 20, 60, 200, 1_000, 600_000]));
            }
            Kind::Cancel => wish.cancel_after = Some(random.millis(0, 400)),
            Kind::Bad => wish.spoil(random),
        }
        wish
    }

    fn picture(id: &str, kind: Kind, model: &str, random: &mut Random) -> Self {
        let (steps, prompt) = match model {
            SHAPES => (random.between(2, 4), "a large red circle on a blue background"),
            // Every tenth is long enough to be caught in its middle.
            _ if random.chance(10) => (150, "a"),
            _ => (random.between(2, 40), *random.pick(&["a", "a red circle", "ein Kreis"])),
        };
        let images = if random.chance(10) { 2 } else { 1 };
        let previews = random.chance(10);
        let seed = random.below(3);
        let mut body = json!({
            "operation": "image_generation", "job_id": id, "model": model, "prompt": prompt, "steps": steps,
            "seed": seed, "n": images,
        });
        if previews {
            body["preview_every"] = json!(2);
        }
        let follow = [(4, Follow::No), (2, Follow::Poll), (3, Follow::Stream), (1, Follow::FickleStream)];
        Self {
            id: id.to_owned(),
            kind,
            body,
            images,
            previews,
            twin: format!("{model} {prompt} {steps} {seed} {images}"),
            follow: *random.weighted(&follow),
            cancel_after: None,
        }
    }

    /// A job that must end in a picture of the simulation.
    pub fn plain(id: &str, model: &str, steps: u32) -> Self {
        let body = json!({
            "operation": "image_generation", "job_id": id, "model": model, "prompt": "a", "steps": steps, "seed": 7,
        });
        Self {
            id: id.to_owned(),
            kind: Kind::Plain,
            body,
            images: 1,
            previews: false,
            twin: format!("{model} {steps}"),
            follow: Follow::Stream,
            cancel_after: None,
        }
    }

    /// Makes it a request that is wrong: some queens find out, some workers do.
    fn spoil(&mut self, random: &mut Random) {
        match random.below(5) {
            0 => self.body["steps"] = json!(0),
            1 => self.body["model"] = json!("nobody-has-it"),
            2 => self.body["guidance"] = json!(7.5),
            transform => {
                self.body["operation"] = json!("image_transform");
                let no_picture = if transform == 3 { "bm8gcGljdHVyZQ==" } else { "object:inputs/nothing" };
                self.body["init_image"] = json!(no_picture);
            }
        }
    }
}

#[test]
fn a_seed_draws_the_same_jobs_and_every_kind_of_them() {
    let draw = |seed| -> Vec<Wish> {
        let mut random = Random::of(seed, "load");
        (0..400).map(|number| Wish::draw(number, 4, &mut random)).collect()
    };
    let (first, again, other) = (draw(1), draw(1), draw(2));
    let bodies = |wishes: &[Wish]| wishes.iter().map(|wish| wish.body.clone()).collect::<Vec<_>>();
    assert_eq!(bodies(&first), bodies(&again));
    assert_ne!(bodies(&first), bodies(&other));
    for kind in [Kind::Plain, Kind::Deadline, Kind::Cancel, Kind::Bad, Kind::Poison] {
        assert!(first.iter().any(|wish| wish.kind == kind), "{kind:?}");
    }
    let twins: std::collections::BTreeSet<_> = first.iter().map(|wish| &wish.twin).collect();
    assert!(twins.len() < first.len() * 9 / 10, "{} of {}", twins.len(), first.len());
}
