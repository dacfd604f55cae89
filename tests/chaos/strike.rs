//! Faults, applied to a pool and taken away again.

use std::{collections::BTreeMap, sync::Arc};

use tokio::task::JoinSet;

use super::{
    faults::{Action, Fault, Plan, Target},
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
}

impl Strikes {
    pub fn new(world: Arc<World>) -> Self {
        Self { world, lasting: JoinSet::new(), counts: BTreeMap::new() }
    }

    /// One after the other but for those `without`, until the future is dropped.
    pub async fn go_on(&mut self, plan: Plan, without: &[String]) {
        for fault in plan {
            tokio::time::sleep(fault.after).await;
            if !without.contains(&fault.action.kind()) {
                self.strike(fault);
            }
            while self.lasting.try_join_next().is_some() {}
        }
    }

    /// Applies one fault; it ends by itself.
    fn strike(&mut self, fault: Fault) {
        let world = self.world.clone();
        let process = |target| world.process(target);
        let hit = match fault.action {
            Action::Kill(target) => process(target).signal("-KILL").is_some(),
            Action::Stop(target) => match process(target).signal("-STOP") {
                None => false,
                // The process may be another by the time it ends.
                Some(pid) => self.after(fault, move |_| {
                    send("-CONT", pid);
                }),
            },
            Action::Line(target, mode) => {
                world.line(target).set(mode);
                self.after(fault, move |world| world.line(target).set(Mode::Pass))
            }
            Action::Cut(target) => {
                world.line(target).set(Mode::Refuse);
                world.line(target).cut();
                self.after(fault, move |world| world.line(target).set(Mode::Pass))
            }
            Action::S3(kind, percent) => {
                world.s3().set(Some((kind, percent)));
                self.after(fault, move |world| world.s3().set(None))
            }
        };
        if hit {
            *self.counts.entry(fault.action.kind()).or_default() += 1;
        }
    }

    fn after(&mut self, fault: Fault, end: impl FnOnce(&World) + Send + 'static) -> bool {
        let world = self.world.clone();
        self.lasting.spawn(async move {
            tokio::time::sleep(fault.lasts).await;
            end(&world);
        });
        true
    }

    /// Ends every fault now.
    pub async fn lift(&mut self) {
        self.lasting.shutdown().await;
        for target in self.world.targets() {
            // A process that is not stopped does not mind.
            self.world.process(target).signal("-CONT");
            if target != Target::Nats {
                self.world.line(target).set(Mode::Pass);
            }
        }
        self.world.s3().set(None);
    }
}
