//! Faults, applied to a pool and taken away again.

use std::{
    collections::BTreeMap,
    sync::Arc,
    time::{Duration, SystemTime},
};

use tokio::task::JoinSet;

use super::{
    faults::{Action, Fault, Plan, Target},
    nets::Wire,
    proxy::Mode,
    supervised::send,
    world::World,
};

/// Applies faults until it is dropped or told to stop.
pub struct Strikes {
    world: Arc<World>,
    /// Faults that last, each in a task that ends it.
    lasting: JoinSet<()>,
    /// Faults that were applied, by kind.
    pub counts: BTreeMap<String, u64>,
    /// When each was applied, since 1970, and its kind.
    pub times: Vec<(Duration, String)>,
}

impl Strikes {
    pub fn new(world: Arc<World>) -> Self {
        Self { world, lasting: JoinSet::new(), counts: BTreeMap::new(), times: vec![] }
    }

    /// One after the other but for those `without`, until the future is dropped.
    pub async fn go_on(&mut self, plan: Plan, without: &[String]) {
        for fault in plan {
            tokio::time::sleep(fault.after).await;
            if !without.contains(&fault.kind()) {
                self.strike(fault);
            }
            while self.lasting.try_join_next().is_some() {}
        }
    }

    /// Applies one fault; it ends by itself.
    fn strike(&mut self, fault: Fault) {
        if !begin(&self.world, fault.action) {
            return;
        }
        *self.counts.entry(fault.kind()).or_default() += 1;
        let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
        self.times.push((now, format!("{}, for {:?}", fault.kind(), fault.lasts)));
        let world = self.world.clone();
        // The process may be another by the time it ends.
        let stopped = match fault.action {
            Action::Stop(target) => world.process(target).pid(),
            _ => None,
        };
        self.lasting.spawn(async move {
            tokio::time::sleep(fault.lasts).await;
            if let Some(pid) = stopped {
                send("-CONT", pid);
            }
            end(&world, fault.action).await;
        });
    }

    /// Ends every fault now.
    pub async fn lift(&mut self) {
        self.lasting.shutdown().await;
        let world = &self.world;
        for target in world.targets() {
            // A process that is not stopped does not mind.
            world.process(target).signal("-CONT");
            if target == Target::Nats {
                continue;
            }
            let wires = [Wire::Nats, Wire::Store].map(|wire| Action::Unplug(target, wire));
            for action in [Action::Cut(target), Action::Clock(target, 0)].into_iter().chain(wires) {
                end(world, action).await;
            }
        }
        world.s3().set(None);
        end(world, Action::FullDisk).await;
    }
}

/// Begins with a fault; false where there is nobody to be struck, or what it needs is not there.
fn begin(world: &World, action: Action) -> bool {
    match action {
        Action::Kill(target) => world.process(target).signal("-KILL").is_some(),
        Action::Stop(target) => world.process(target).signal("-STOP").is_some(),
        Action::Line(target, mode) => {
            world.line(target).set(mode);
            true
        }
        Action::Cut(target) => {
            world.line(target).set(Mode::Refuse);
            world.line(target).cut();
            true
        }
        Action::Unplug(target, wire) => world.seat(target).map(|seat| seat.unplug(wire)).is_some(),
        Action::Clock(target, seconds) => world.clock(target).map(|clock| clock.set(seconds)).is_some(),
        Action::FullDisk => world.fill_disk(),
        Action::PowerCut(cut, bytes) => world.power_cut(cut, bytes),
        Action::S3(kind, percent) => {
            world.s3().set(Some((kind, percent)));
            true
        }
    }
}

/// Ends a fault, which another of its kind may have ended before.
async fn end(world: &World, action: Action) {
    match action {
        Action::Kill(_) | Action::Stop(_) | Action::PowerCut(..) => {}
        Action::Line(target, _) | Action::Cut(target) => world.line(target).set(Mode::Pass),
        Action::Unplug(target, wire) => drop(world.seat(target).map(|seat| seat.plug(wire))),
        Action::Clock(target, _) => drop(world.clock(target).map(|clock| clock.set(0))),
        Action::FullDisk => world.empty_disk().await,
        Action::S3(..) => world.s3().set(None),
    }
}
