//! What is done to a pool, drawn from the seed: which fault, to whom, for how long, and when the next one comes.

use std::time::Duration;

use super::{
    blocks::Cut,
    nets::Wire,
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
    /// A wire of this process is out: packets go nowhere.
    Unplug(Target, Wire),
    /// The clock of this process jumps by so many seconds, and back in the end.
    Clock(Target, i64),
    /// The disk that nats-server keeps its streams on is full.
    FullDisk,
    /// nats-server is killed, and starts again without the last so many bytes of a stream.
    PowerCut(Cut, u64),
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

/// A pause that is longer than this is longer than the time after which a silent worker's job is another's.
const LONG: Duration = Duration::from_millis(2500);
/// By how much clocks jump, in seconds.
const JUMPS: [i64; 6] = [-6 * HOUR, -HOUR, -120, 120, HOUR, 6 * HOUR];
const HOUR: i64 = 3600;

impl Fault {
    /// What it is counted as.
    pub fn kind(&self) -> String {
        let whom = |target: &Target| match target {
            Target::Worker(_) => "worker",
            Target::Queen(_) => "queen",
            Target::Nats => "nats-server",
        };
        match &self.action {
            Action::Kill(target) => format!("SIGKILL {}", whom(target)),
            Action::Stop(target) if self.lasts > LONG => format!("SIGSTOP {} beyond ack-wait", whom(target)),
            Action::Stop(target) => format!("SIGSTOP {}", whom(target)),
            Action::Line(_, Mode::Delay(_)) => "NATS late".into(),
            Action::Line(_, Mode::Hold) => "NATS held back".into(),
            Action::Line(_, Mode::Lose(_)) => "NATS loses bytes".into(),
            Action::Line(..) | Action::Cut(_) => "NATS cut".into(),
            Action::Unplug(target, Wire::Nats) => format!("partition {} from NATS", whom(target)),
            Action::Unplug(target, Wire::Store) => format!("partition {} from S3", whom(target)),
            Action::Clock(target, seconds) => {
                format!("clock of {} {}", whom(target), if *seconds < 0 { "back" } else { "ahead" })
            }
            Action::FullDisk => "full disk under nats-server".into(),
            Action::PowerCut(cut, _) => format!("power cut in {}", cut.name()),
            Action::S3(fault, _) => fault.name().into(),
        }
    }
}

/// The faults of a seed, without end: one of each kind of draw in the seed's order, and then as they are drawn.
pub struct Plan {
    random: Random,
    workers: usize,
    /// What is left of the first round.
    first: Vec<Draw>,
    /// The mean time between two.
    every: Duration,
}

/// What is drawn first; to whom and how follows.
#[derive(Debug, Clone, Copy)]
enum Draw {
    Kill(Whom),
    Stop(Whom),
    /// For longer than [`LONG`].
    LongStop(Whom),
    Late,
    Hold,
    Lose,
    Cut,
    Unplug(Whom, Wire),
    Clock(Whom),
    FullDisk,
    PowerCut,
    S3,
    SlowS3,
}

#[derive(Debug, Clone, Copy)]
enum Whom {
    Worker,
    Queen,
    Nats,
}

/// How often each is drawn. What nats-server suffers everybody does, and for long.
const DRAWS: [(u64, Draw); 21] = [
    (30, Draw::Kill(Whom::Worker)),
    (10, Draw::Kill(Whom::Queen)),
    (4, Draw::Kill(Whom::Nats)),
    (16, Draw::Stop(Whom::Worker)),
    (8, Draw::Stop(Whom::Queen)),
    (3, Draw::Stop(Whom::Nats)),
    (10, Draw::LongStop(Whom::Worker)),
    (2, Draw::LongStop(Whom::Nats)),
    (12, Draw::Late),
    (8, Draw::Hold),
    (14, Draw::Lose),
    (12, Draw::Cut),
    (12, Draw::Unplug(Whom::Worker, Wire::Nats)),
    (5, Draw::Unplug(Whom::Queen, Wire::Nats)),
    (8, Draw::Unplug(Whom::Worker, Wire::Store)),
    (8, Draw::Clock(Whom::Worker)),
    (4, Draw::Clock(Whom::Queen)),
    (1, Draw::FullDisk),
    (2, Draw::PowerCut),
    (30, Draw::S3),
    (6, Draw::SlowS3),
];

impl Plan {
    pub fn new(seed: u64, workers: usize, per_second: f64) -> Self {
        assert!(per_second > 0.0, "a plan without faults");
        let (mut random, every) = (Random::of(seed, "faults"), Duration::from_secs_f64(1.0 / per_second));
        let mut first = DRAWS.map(|(_, draw)| draw).to_vec();
        for place in (1..first.len()).rev() {
            first.swap(place, random.below(place + 1));
        }
        Self { random, workers, first, every }
    }

    fn target(&mut self, whom: Whom) -> Target {
        match whom {
            Whom::Worker => Target::Worker(self.random.below(self.workers)),
            Whom::Queen => Target::Queen(self.random.below(QUEENS)),
            Whom::Nats => Target::Nats,
        }
    }

    /// Somebody with a line to nats-server; workers more often than queens.
    fn line(&mut self) -> Target {
        let whom = if self.random.chance(75) { Whom::Worker } else { Whom::Queen };
        self.target(whom)
    }

    fn action(&mut self, draw: Draw) -> Action {
        match draw {
            Draw::Kill(whom) => Action::Kill(self.target(whom)),
            Draw::Stop(whom) | Draw::LongStop(whom) => Action::Stop(self.target(whom)),
            Draw::Late => {
                let late = self.random.millis(5, 150);
                Action::Line(self.line(), Mode::Delay(late))
            }
            Draw::Hold => Action::Line(self.line(), Mode::Hold),
            Draw::Lose => {
                let way = *self.random.pick(&[Way::ToServer, Way::FromServer, Way::Both]);
                Action::Line(self.line(), Mode::Lose(way))
            }
            Draw::Cut => Action::Cut(self.line()),
            Draw::Unplug(whom, wire) => Action::Unplug(self.target(whom), wire),
            Draw::Clock(whom) => Action::Clock(self.target(whom), *self.random.pick(&JUMPS)),
            Draw::FullDisk => Action::FullDisk,
            Draw::PowerCut => {
                let cut = *self.random.pick(&[Cut::Jobs, Cut::Events]);
                // From a torn record to a dozen of them.
                Action::PowerCut(cut, self.random.between(1, 4000))
            }
            Draw::S3 => {
                let fault = loop {
                    let fault = *self.random.pick(&S3Fault::ALL);
                    if fault != S3Fault::Slow {
                        break fault;
                    }
                };
                Action::S3(fault, *self.random.pick(&[20, 50, 100]))
            }
            Draw::SlowS3 => Action::S3(S3Fault::Slow, *self.random.pick(&[50, 100])),
        }
    }

    fn lasts(&mut self, draw: Draw) -> Duration {
        match draw {
            Draw::Kill(_) | Draw::PowerCut => Duration::ZERO,
            // nats-server is everybody's.
            Draw::Stop(Whom::Nats) => self.random.millis(200, 1500),
            Draw::LongStop(Whom::Nats) => self.random.millis(2600, 4500),
            Draw::LongStop(_) => self.random.millis(2600, 7000),
            Draw::Stop(_) => self.random.millis(200, 2400),
            // Some longer than the time after which a worker is taken for dead, some shorter.
            Draw::Late | Draw::Hold | Draw::Lose | Draw::Cut => self.random.millis(200, 4000),
            Draw::Unplug(..) => self.random.millis(500, 8000),
            Draw::Clock(_) => self.random.millis(2000, 10_000),
            Draw::FullDisk => self.random.millis(500, 3000),
            Draw::S3 => self.random.millis(200, 3000),
            Draw::SlowS3 => self.random.millis(1000, 6000),
        }
    }
}

impl Iterator for Plan {
    type Item = Fault;

    fn next(&mut self) -> Option<Fault> {
        let mean = u64::try_from(self.every.as_millis()).expect("not for ages").max(1);
        let after = self.random.millis(0, 2 * mean);
        let draw = self.first.pop().unwrap_or_else(|| *self.random.weighted(&DRAWS));
        let action = self.action(draw);
        let lasts = self.lasts(draw);
        Some(Fault { after, action, lasts })
    }
}

/// Eight digits that are the same for the same faults: what a seed draws depends on the program, too.
pub fn mark(plan: Plan, faults: usize) -> String {
    let text = format!("{:?}", plan.take(faults).collect::<Vec<_>>());
    super::objects::sha256(text.as_bytes())[..8].to_owned()
}

#[test]
fn a_seed_draws_the_same_faults_and_every_kind_of_them() {
    let draw = |seed| Plan::new(seed, 4, 2.0).take(1500).collect::<Vec<_>>();
    assert_eq!(draw(3), draw(3));
    assert_ne!(draw(3), draw(4));
    let marks = [3, 3, 4].map(|seed| mark(Plan::new(seed, 4, 2.0), 1000));
    assert!(marks[0] == marks[1] && marks[1] != marks[2], "{marks:?}");
    let kinds: std::collections::BTreeSet<_> = draw(3).iter().map(Fault::kind).collect();
    let (signals, lines, wires, clocks, disks) = (3 + 3 + 2, 4, 3, 4, 3);
    let sum = signals + lines + wires + clocks + disks + S3Fault::ALL.len();
    assert_eq!(kinds.len(), sum, "{kinds:?}");
    let orders: Vec<_> = [3, 4].map(|seed| Plan::new(seed, 4, 2.0).first).into();
    assert_ne!(format!("{:?}", orders[0]), format!("{:?}", orders[1]));
    let sum: Duration = draw(3).iter().map(|fault| fault.after).sum();
    let mean = sum.as_secs_f64() / 1500.0;
    assert!((0.4..0.6).contains(&mean), "two a second: one every {mean} s");
}
