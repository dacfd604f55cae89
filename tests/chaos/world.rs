//! A pool of real processes: nats-server with a file store, an S3 server, queens and workers, each with a line of its
//! own to nats-server; where it is asked for and allowed, each with a clock and a network of its own, too.

use std::{
    net::{Ipv4Addr, TcpStream},
    path::{Path, PathBuf},
    sync::{Arc, Mutex},
    time::{Duration, Instant},
};

use tempfile::TempDir;

use super::{
    blocks::{self, Cut},
    disk::SmallDisk,
    faults::Target,
    journal::Journal,
    load::Front,
    nets::{Nets, Seat, Wire},
    proxy::Proxy,
    random::Random,
    s3_faults::S3Faults,
    supervised::{Spec, Supervised},
    support::{
        clock::Movable,
        process::{free_port, program},
        s3::{S3Server, SECRET, environment},
    },
    wishes::{POISON, SHAPES, SIM},
};

/// Long enough for a start of everything on a busy machine.
const START_WITHIN: Duration = Duration::from_secs(90);
/// Every subject is below it.
const PREFIX: &str = "chaos";
/// The store's place in the bucket.
const BUCKET: (&str, &str) = ("pictures", "pool");
/// What nats-server has between SIGTERM and SIGKILL.
const ENDS_WITHIN: Duration = Duration::from_secs(3);
/// Shared by workers and queens. A job of a worker that is silent is soon another's.
const STREAM_FLAGS: [&str; 8] = [
    "--jobs-max-bytes",
    "64MiB",
    "--events-max-bytes",
    "256MiB",
    "--dlq-max-bytes",
    "16MiB",
    "--ack-wait",
    "2s",
];
const CHECKPOINT: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/models/tiny-shapes");

/// What kind of pool.
#[derive(Debug, Clone)]
pub struct Shape {
    pub seed: u64,
    pub queens: usize,
    pub workers: usize,
    /// Of `--model`; queens have all three in their catalogue.
    pub models: Vec<String>,
    /// Further flags of every worker.
    pub flags: Vec<String>,
    /// A folder in place of the S3 server.
    pub folder: Option<PathBuf>,
    /// With clocks that can be moved, wires that can be pulled out, and a disk of its own under nats-server.
    pub rude: bool,
}

pub struct World {
    pub shape: Shape,
    nats: Supervised,
    nats_port: u16,
    store: StorePlace,
    queens: Vec<Member>,
    queen_urls: Vec<String>,
    workers: Vec<Member>,
    /// What power cuts have taken so far.
    taken: Arc<Mutex<Vec<String>>>,
    nets: Option<Nets>,
    disk: Option<SmallDisk>,
    folder: TempDir,
}

/// A queen or a worker.
struct Member {
    process: Supervised,
    line: Proxy,
    place: Place,
}

/// What a process has of its own.
#[derive(Default)]
struct Place {
    clock: Option<Movable>,
    seat: Option<Seat>,
}

/// Of the disk under nats-server: several times what the streams of a long run take.
const DISK_MIB: u32 = 512;

enum StorePlace {
    S3 { server: S3Server, faults: S3Faults },
    Folder(PathBuf),
}

impl Shape {
    /// A pool with the models of a storm: a simulation, the small checkpoint, and one that kills every job.
    pub fn storm(seed: u64, queens: usize, workers: usize) -> Self {
        let sim = format!("{SIM}=sim://?step_ms=5&size=64");
        let poison = format!("{POISON}=sim://?step_ms=5&size=64&fail=panic");
        let models = vec![sim, CHECKPOINT.into(), poison];
        Self { models, rude: true, ..Self::of_model(seed, queens, workers, "") }
    }

    /// A pool of one model, with a folder as its store when it is asked for.
    pub fn of_model(seed: u64, queens: usize, workers: usize, model: &str) -> Self {
        let model = if model == SHAPES { CHECKPOINT.into() } else { model.to_owned() };
        Self { seed, queens, workers, models: vec![model], flags: vec![], folder: None, rude: false }
    }

    #[must_use]
    pub fn flags(mut self, flags: &[&str]) -> Self {
        self.flags.extend(flags.iter().map(|flag| (*flag).to_owned()));
        self
    }
}

impl World {
    /// Starts everything and waits until every queen knows every worker.
    pub async fn start(shape: Shape) -> Self {
        let folder = TempDir::new().expect("a folder");
        let disk = shape.rude.then(|| SmallDisk::mount(DISK_MIB)).flatten();
        let nets = shape.rude.then(Nets::make).flatten();
        let nats_port = free_port();
        let data = disk.as_ref().map_or(folder.path(), SmallDisk::path);
        let nats = start_nats(nats_port, folder.path(), data, Random::of(shape.seed, "nats"));
        wait(|| TcpStream::connect(("127.0.0.1", nats_port)).is_ok(), || nats.log()).await;
        let store = match &shape.folder {
            Some(folder) => StorePlace::Folder(folder.clone()),
            None => {
                let server = S3Server::rclone();
                server.bucket(BUCKET.0);
                let at = nets.as_ref().map_or(Ipv4Addr::LOCALHOST, |nets| nets.address(Wire::Store));
                let faults = S3Faults::start(at, server.endpoint(), Random::of(shape.seed, "s3")).await;
                StorePlace::S3 { server, faults }
            }
        };
        let (queens, workers) = (shape.queens, shape.workers);
        let mut world = Self {
            shape,
            nats,
            nats_port,
            store,
            queens: vec![],
            queen_urls: vec![],
            workers: vec![],
            taken: Arc::default(),
            nets,
            disk,
            folder,
        };
        for number in 0..queens {
            world.add_queen(number).await;
        }
        for number in 0..workers {
            // One slot and two, by turns.
            world.add_worker(&["--slots", ["1", "2"][number % 2]]).await;
        }
        world.ready(workers).await;
        world
    }

    async fn add_queen(&mut self, number: usize) {
        let line = self.line_to_nats().await;
        let name = format!("queen{number}");
        let place = self.place(&name);
        let address = place.seat.as_ref().map_or(Ipv4Addr::LOCALHOST, |seat| seat.address(Wire::Store));
        let listen = format!("{address}:{}", free_port());
        let mut arguments = self.common(&line);
        arguments.extend(["--listen".into(), listen.clone(), "--max-jobs".into(), "256".into()]);
        arguments.extend(["--models".into(), [SIM, SHAPES, POISON].join(",")]);
        // All clients of a run are one, and in the end it asks for everything.
        arguments.extend(["--request-limit".into(), "0".into()]);
        let process = self.spec(name, env!("CARGO_BIN_EXE_queen-rbee"), arguments, &place);
        self.queens.push(Member { process, line, place });
        self.queen_urls.push(format!("http://{listen}"));
    }

    /// One more worker, called `w<number>`.
    pub async fn add_worker(&mut self, flags: &[&str]) -> usize {
        let line = self.line_to_nats().await;
        let name = format!("w{}", self.workers.len());
        let place = self.place(&name);
        let mut arguments = self.common(&line);
        arguments.extend(["--worker-id".into(), name.clone(), "--threads".into(), "1".into()]);
        for model in &self.shape.models {
            arguments.extend(["--model".into(), model.clone()]);
        }
        // Given twice, a flag would be refused.
        let given = |flag: &str| flags.contains(&flag) || self.shape.flags.iter().any(|given| given == flag);
        for (flag, value) in [("--grace", "5s"), ("--checkpoint-every", "100ms")] {
            if !given(flag) {
                arguments.extend([flag.into(), value.into()]);
            }
        }
        let shaped = self.shape.flags.chunks(2).filter(|pair| !flags.contains(&pair[0].as_str()));
        arguments.extend(shaped.flatten().cloned());
        arguments.extend(flags.iter().map(|flag| (*flag).to_owned()));
        let process = self.spec(name, env!("CARGO_BIN_EXE_sd-worker-cpu"), arguments, &place);
        self.workers.push(Member { process, line, place });
        self.workers.len() - 1
    }

    async fn line_to_nats(&self) -> Proxy {
        let at = self.nets.as_ref().map_or(Ipv4Addr::LOCALHOST, |nets| nets.address(Wire::Nats));
        Proxy::at(at, self.nats_port).await
    }

    fn place(&mut self, name: &str) -> Place {
        let clock = self.shape.rude.then(|| Movable::new(self.folder.path().join(format!("{name}.clock"))));
        Place { clock, seat: self.nets.as_mut().map(Nets::seat) }
    }

    fn common(&self, line: &Proxy) -> Vec<String> {
        let store = match &self.store {
            StorePlace::S3 { .. } => format!("s3://{}/{}", BUCKET.0, BUCKET.1),
            StorePlace::Folder(folder) => folder.to_str().expect("UTF-8").to_owned(),
        };
        let nats = format!("nats://{}", line.address);
        let flags = [
            "--nats-url",
            &nats,
            "--subject-prefix",
            PREFIX,
            "--store-url",
            &store,
            "--store-timeout",
            "5s",
            "--log-format",
            "json",
        ];
        flags.iter().chain(&STREAM_FLAGS).map(|flag| (*flag).to_owned()).collect()
    }

    fn spec(&self, name: String, program: &str, arguments: Vec<String>, place: &Place) -> Supervised {
        let mut environment = match &self.store {
            StorePlace::S3 { faults, .. } => environment(&faults.endpoint(), SECRET),
            StorePlace::Folder(_) => vec![],
        };
        environment.push(("RUST_LOG".into(), "warn,sd_worker_rbee=debug".into()));
        environment.extend(place.clock.iter().flat_map(Movable::environment));
        let random = Random::of(self.shape.seed, &name);
        let (program, arguments) = match &place.seat {
            Some(seat) => seat.command(program, arguments),
            None => (program.to_owned(), arguments),
        };
        Supervised::start(Spec { name, program, arguments, environment }, self.folder.path(), random)
    }

    /// Waits until every queen has a durable path and hears of so many workers.
    pub async fn ready(&self, workers: usize) {
        let front = self.front();
        let until = Instant::now() + START_WITHIN;
        for queen in 0..self.queens.len() {
            loop {
                let (_, health) = front.get(queen, "/health").await;
                if health["durable"] == true && health["workers"].as_u64() >= Some(workers as u64) {
                    break;
                }
                assert!(Instant::now() < until, "queen {queen} says {health}\n{}", self.last_lines());
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
        }
    }

    pub fn front(&self) -> Front {
        Front::new(self.queen_urls.clone())
    }

    pub async fn journal(&self) -> Journal {
        Journal::connect(self.nats_port, PREFIX).await
    }

    pub fn process(&self, target: Target) -> &Supervised {
        match target {
            Target::Worker(number) => &self.workers[number].process,
            Target::Queen(number) => &self.queens[number].process,
            Target::Nats => &self.nats,
        }
    }

    fn member(&self, target: Target) -> &Member {
        match target {
            Target::Worker(number) => &self.workers[number],
            Target::Queen(number) => &self.queens[number],
            Target::Nats => panic!("nats-server has neither a line nor a place"),
        }
    }

    /// A process' line to nats-server.
    pub fn line(&self, target: Target) -> &Proxy {
        &self.member(target).line
    }

    /// A process' place in the network, if it has one of its own.
    pub fn seat(&self, target: Target) -> Option<&Seat> {
        self.member(target).place.seat.as_ref()
    }

    /// A process' clock, if it can be moved.
    pub fn clock(&self, target: Target) -> Option<&Movable> {
        self.member(target).place.clock.as_ref()
    }

    /// Fills the disk under nats-server; false if it has none of its own, or one that is full.
    pub fn fill_disk(&self) -> bool {
        let room = self.disk.as_ref().filter(|disk| !disk.is_full());
        room.map(SmallDisk::fill).is_some()
    }

    /// Gives room back, and does what whoever looks after a nats-server must: one that found its disk full has turned
    /// JetStream off until it is started again, or stands still for good and hears no SIGTERM (both were seen with 2.9.10).
    pub async fn empty_disk(&self) {
        let Some(disk) = self.disk.as_ref().filter(|disk| disk.is_full()) else { return };
        disk.empty();
        let known = self.nats.exits().len();
        if self.nats.signal("-TERM").is_none() {
            return;
        }
        self.nats.signal("-CONT");
        if tokio::time::timeout(ENDS_WITHIN, self.nats.exit_after(known)).await.is_err() {
            self.nats.signal("-KILL");
            self.nats.exit_after(known).await;
        }
    }

    /// Kills nats-server and takes the last bytes of a stream before it starts again; false if it does not run.
    pub fn power_cut(&self, cut: Cut, bytes: u64) -> bool {
        let folder = blocks::folder_of(&self.server_folder(), &format!("{PREFIX}-{}", cut.name()));
        let taken = self.taken.clone();
        self.nats.kill_and(move || {
            let records = blocks::cut(&folder, bytes);
            let jobs = records.iter().filter_map(|record| record.subject.rsplit('.').next());
            taken.lock().expect("no panic").extend(jobs.map(str::to_owned));
        })
    }

    /// Where nats-server keeps what it knows.
    pub fn server_folder(&self) -> PathBuf {
        server_folder(self.disk.as_ref().map_or(self.folder.path(), SmallDisk::path))
    }

    /// Jobs of which power cuts have taken something: of these alone may something be missing.
    pub fn taken(&self) -> Vec<String> {
        self.taken.lock().expect("no panic").clone()
    }

    pub fn worker(&self, number: usize) -> &Supervised {
        self.process(Target::Worker(number))
    }

    pub fn targets(&self) -> Vec<Target> {
        let workers = (0..self.workers.len()).map(Target::Worker);
        workers.chain((0..self.queens.len()).map(Target::Queen)).chain([Target::Nats]).collect()
    }

    pub fn s3(&self) -> &S3Faults {
        match &self.store {
            StorePlace::S3 { faults, .. } => faults,
            StorePlace::Folder(_) => panic!("this pool has a folder for its store"),
        }
    }

    /// The folder that the store's keys are files in.
    pub fn store_folder(&self) -> PathBuf {
        match &self.store {
            StorePlace::S3 { server, .. } => server.data().join(BUCKET.0).join(BUCKET.1),
            StorePlace::Folder(folder) => folder.clone(),
        }
    }

    /// A client of the pool's nats-server, on a line that no fault touches.
    pub async fn client(&self) -> async_nats::Client {
        async_nats::connect(format!("nats://127.0.0.1:{}", self.nats_port)).await.expect("NATS")
    }

    /// `chaos.image.generate` and the like.
    pub fn subject(&self, rest: &str) -> String {
        format!("{PREFIX}.{rest}")
    }

    pub fn worker_logs(&self) -> Vec<String> {
        self.workers.iter().map(|worker| worker.process.log()).collect()
    }
}

/// nats-server on this port, with its log in `folder` and what it knows below `data`.
pub fn start_nats(port: u16, folder: &Path, data: &Path, random: Random) -> Supervised {
    let store = server_folder(data).to_str().expect("UTF-8").to_owned();
    let arguments =
        ["-a", "127.0.0.1", "-p", &port.to_string(), "-js", "-sd", &store].map(str::to_owned).to_vec();
    let spec = Spec {
        name: "nats".into(),
        program: program("nats-server", "NATS_SERVER"),
        arguments,
        environment: vec![],
    };
    Supervised::start(spec, folder, random)
}

fn server_folder(data: &Path) -> PathBuf {
    data.join("jetstream")
}

async fn wait(done: impl Fn() -> bool, log: impl Fn() -> String) {
    let until = Instant::now() + START_WITHIN;
    while !done() {
        assert!(Instant::now() < until, "it does not come up:\n{}", log());
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}
