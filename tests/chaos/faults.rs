//! What is done to a pool, drawn from the seed: which fault, to whom, for how long, and when the next one comes.

use std::time::Duration;

use super::{
    proxy::{Mode, Way},
    random::Random,
    s3_faults::S3Fault,
    settings::QUEENS,
};

/// A process of the pool.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Target {
    Worker(usize),
    Queen(usize),
    Nats,
}

/// What is done.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Action {
    /// SIGKILL; the supervisor starts it again.
    Kill(Target),
    /// SIGSTOP, and SIGCONT in the end.
    Stop(Target),
    /// Between this process and nats-server.
    Line(Target, Mode),
    /// Connections of this process are cut, and new ones refused until the end.
    Cut(Target),
    /// Of the S3 server, to so many requests in a hundred.
    S3(S3Fault, u64),
}

/// A fault.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Fault {
    /// After the one before it.
    pub after: Duration,
    pub action: Action,
    /// How long it lasts.
    pub lasts: Duration,
}

impl Action {
    /// What it is counted as.
    pub fn kind(&self) -> String {
        let whom = |target: &Target| match target {
            Target::Worker(_) => "worker",
            Target::Queen(_) => "queen",
            Target::Nats => "nats-server",
        };
        match self {
            Self::Kill(target) => format!("SIGKILL {}", whom(target)),
            Self::Stop(target) => format!("SIGSTOP {}", whom(target)),
            Self::Line(_, Mode::Delay(_)) => "NATS late".into(),
            Self::Line(_, Mode::Hold) => "NATS held back".into(),
            Self::Line(_, Mode::Lose(_)) => "NATS partition".into(),
            Self::Line(..) | Self::Cut(_) => "NATS cut".into(),
            Self::S3(fault, _) => fault.name().into(),
        }
    }
}

/// The faults of a seed, without end.
pub struct Plan {
    random: Random,
    workers: usize,
    /// The mean time between two.
    every: Duration,
}

impl Plan {
    pub fn new(seed: u64, workers: usize, per_second: f64) -> Self {
        assert!(per_second > 0.0, "a plan without faults");
        Self { random: Random::of(seed, "faults"), workers, every: Duration::from_secs_f64(1.0 / per_second) }
    }

    fn worker(&mut self) -> Target {
        Target::Worker(self.random.below(self.workers))
    }

    fn queen(&mut self) -> Target {
        Target::Queen(self.random.below(QUEENS))
    }

    /// Somebody with a line to nats-server; workers more often than queens.
    fn line(&mut self) -> Target {
        if self.random.chance(75) { self.worker() } else { self.queen() }
    }

    fn action(&mut self) -> Action {
        match self.random.below(100) {
            0..18 => Action::Kill(self.worker()),
            18..24 => Action::Kill(self.queen()),
            24..28 => Action::Kill(Target::Nats),
            28..40 => Action::Stop(self.worker()),
            40..45 => Action::Stop(self.queen()),
            45..48 => Action::Stop(Target::Nats),
            48..55 => {
                let late = self.random.millis(5, 150);
                Action::Line(self.line(), Mode::Delay(late))
            }
            55..60 => Action::Line(self.line(), Mode::Hold),
            60..70 => {
                let way = *self.random.pick(&[Way::ToServer, Way::FromServer, Way::Both]);
                Action::Line(self.line(), Mode::Lose(way))
            }
            70..78 => Action::Cut(self.line()),
            _ => {
                let fault = *self.random.pick(&S3Fault::ALL);
                Action::S3(fault, *self.random.pick(&[20, 50, 100]))
            }
        }
    }
}

impl Iterator for Plan {
    type Item = Fault;

    fn next(&mut self) -> Option<Fault> {
        let mean = u64::try_from(self.every.as_millis()).expect("not for ages").max(1);
        let after = self.random.millis(0, 2 * mean);
        let action = self.action();
        let lasts = match action {
            Action::Kill(_) => Duration::ZERO,
            // nats-server is everybody's.
            Action::Stop(Target::Nats) => self.random.millis(200, 1500),
            // Some longer than the time after which a worker is taken for dead, some shorter.
            Action::Stop(_) | Action::Line(..) | Action::Cut(_) => self.random.millis(200, 4000),
            Action::S3(..) => self.random.millis(200, 3000),
        };
        Some(Fault { after, action, lasts })
    }
}

#[test]
fn a_seed_draws_the_same_faults_and_every_kind_of_them() {
    let draw = |seed| Plan::new(seed, 4, 2.0).take(600).collect::<Vec<_>>();
    assert_eq!(draw(3), draw(3));
    assert_ne!(draw(3), draw(4));
    let kinds: std::collections::BTreeSet<_> = draw(3).iter().map(|fault| fault.action.kind()).collect();
    assert_eq!(kinds.len(), 3 + 3 + 4 + S3Fault::ALL.len(), "{kinds:?}");
    let sum: Duration = draw(3).iter().map(|fault| fault.after).sum();
    let mean = sum.as_secs_f64() / 600.0;
    assert!((0.4..0.6).contains(&mean), "two a second: one every {mean} s");
}
