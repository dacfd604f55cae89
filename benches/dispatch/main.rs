//! What bus, queue, encode and upload add to a job: a real nats-server, a worker as a process of its own, a model that
//! takes no time (`sim://?step_ms=0&size=64`), a store in memory. The server, the worker and whoever asks share the
//! cores of this machine, so all three are in the figures.
//!
//! `cargo bench --bench dispatch`, or with a part's name behind it: `cargo bench --bench dispatch -- requests`
//!
//! | part | what it prints |
//! |---|---|
//! | `requests` | jobs per second on `image.generate` with `stream: false`, through 64 slots with 64 requests under way |
//! | `durable` | jobs per second from a full queue (`JOBS`), each with its events stored and its message settled |
//! | `latency` | milliseconds of a job from its sending to its end, one at a time: as a request and through the queue, with a store in memory and one over S3 (rclone); beside them the time that its PNG takes |
//! | `gap` | milliseconds between two jobs in which the device of a worker with one slot has nothing to do |
//!
//! `SD_WORKER` names another worker to measure: a build to compare with.

#[path = "../../tests/support/mod.rs"]
mod support;

mod queue;
mod requests;

use std::{
    fmt,
    time::{Duration, Instant},
};

use sd_worker_rbee::{
    bus::StreamOptions,
    contract::{Capability, Job, Limits, Operation},
    diffusion::{ImageSpec, Source},
    engine::Generated,
    worker::pictures::encode,
};
use support::{nats::NatsServer, process::Leashed, s3::S3Server, worker::Pool};
use tempfile::TempDir;

const ROUNDS: usize = 5;
const SLOTS: usize = 64;
/// One step, so that the engine's turns are not what is measured.
const REQUEST: &str = r#"{"prompt":"a","steps":1,"stream":false}"#;
/// As a person writes it: the model's own number of steps, 20.
const REQUEST_OF_20_STEPS: &str = r#"{"prompt":"a","stream":false}"#;
/// A job of the part `gap` is `GAP_STEPS` steps of `GAP_STEP_MS` milliseconds.
const GAP_STEPS: u64 = 5;
const GAP_STEP_MS: u64 = 20;
const GAP_JOBS: usize = 30;
const LATENCY_JOBS: usize = 500;

/// What the streams of a pool may grow to: a server sets it aside for each.
fn streams() -> StreamOptions {
    StreamOptions {
        jobs_max_bytes: 64 << 20,
        events_max_bytes: 64 << 20,
        dlq_max_bytes: 4 << 20,
        ..StreamOptions::default()
    }
}

/// A worker that takes jobs of this simulation and keeps pictures in memory.
fn worker(pool: &Pool, folder: &TempDir, model: &str, slots: usize, prefetch: usize) -> Leashed {
    worker_at(pool, folder, model, slots, prefetch, "memory://", &[])
}

/// A worker that takes jobs of this simulation and keeps pictures in this store.
fn worker_at(
    pool: &Pool,
    folder: &TempDir,
    model: &str,
    slots: usize,
    prefetch: usize,
    store: &str,
    environment: &[String],
) -> Leashed {
    let (slots, prefetch) = (slots.to_string(), prefetch.to_string());
    let arguments = [
        ["--model", model],
        ["--nats-url", &pool.url],
        ["--subject-prefix", &pool.prefix],
        ["--store-url", store],
        ["--slots", &slots],
        ["--prefetch", &prefetch],
        ["--jobs-max-bytes", "64MiB"],
        ["--events-max-bytes", "64MiB"],
        ["--dlq-max-bytes", "4MiB"],
    ];
    let program = std::env::var("SD_WORKER");
    let program = program.as_deref().unwrap_or(env!("CARGO_BIN_EXE_sd-worker-cpu"));
    let environment: Vec<&str> = environment.iter().map(String::as_str).collect();
    let command = [environment, vec![program], arguments.concat()].concat();
    Leashed::start("env", &command, &folder.path().join("worker.log"))
}

async fn ready(worker: &Leashed) {
    let until = Instant::now() + Duration::from_secs(30);
    while !worker.log().contains(" ready ") {
        assert!(Instant::now() < until, "{}", worker.log());
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

/// The median, and the least and the most.
struct Spread(Vec<f64>);

impl Spread {
    fn of(mut values: Vec<f64>) -> Self {
        values.sort_by(f64::total_cmp);
        Self(values)
    }

    fn at(&self, part: f64) -> f64 {
        self.0[((self.0.len() - 1) as f64 * part) as usize]
    }
}

impl fmt::Display for Spread {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:.0} (least {:.0}, most {:.0})", self.at(0.5), self.at(0.0), self.at(1.0))
    }
}

async fn requests() {
    for (what, body, named, jobs) in [
        ("of one step", REQUEST, false, 10_000),
        ("of one step under ids of their own", REQUEST, true, 10_000),
        ("of 20 steps", REQUEST_OF_20_STEPS, false, 4_000),
    ] {
        let pool = Pool::on(&NatsServer::shared().url()).await;
        let folder = TempDir::new().expect("a temporary folder");
        let worker = worker(&pool, &folder, "sim://?step_ms=0&size=64", SLOTS, 0);
        ready(&worker).await;
        let subject = pool.subjects.image(Capability::Generate);
        requests::run(&pool.client, &subject, body, None, SLOTS, jobs / 10).await;
        let (mut rates, mut asked) = (vec![], 0);
        for round in 0..ROUNDS {
            let ids = named.then(|| format!("j{round}"));
            let run = requests::run(&pool.client, &subject, body, ids.as_deref(), SLOTS, jobs).await;
            rates.push(jobs as f64 / run.took.as_secs_f64());
            asked += run.asked;
        }
        let asked = asked as f64 / (jobs * ROUNDS) as f64;
        println!("requests, jobs {what}: {} jobs/s; asked for {asked:.2} times each", Spread::of(rates));
    }
}

async fn durable() {
    let jobs = 4_000;
    let mut rates = vec![];
    for _ in 0..ROUNDS {
        let pool = Pool::on(&NatsServer::shared().url()).await;
        queue::fill(&queue::open(&pool, streams()).await, REQUEST, jobs).await;
        let folder = TempDir::new().expect("a temporary folder");
        let mut ends = queue::ends(&pool).await;
        let _worker = worker(&pool, &folder, "sim=sim://?step_ms=0&size=64", SLOTS, 0);
        let times = queue::times(&mut ends, jobs).await;
        // From the first end to the last: the worker's start is not in it.
        rates.push((jobs - 1) as f64 / (times[jobs - 1] - times[0]).as_secs_f64());
    }
    println!("durable, jobs of one step: {} jobs/s", Spread::of(rates));
}

async fn latency() {
    for size in [64, 512] {
        println!("latency, {size}x{size}: a PNG takes {:.2} ms of each", png_ms(size));
        latency_of(size, "memory://", &[]).await;
    }
    let server = S3Server::rclone();
    server.bucket("pool");
    let environment = server.environment().into_iter().map(|(name, value)| format!("{name}={value}"));
    latency_of(512, "s3://pool", &environment.collect::<Vec<_>>()).await;
}

/// One job at a time, as a request and through the queue.
async fn latency_of(size: u32, store: &str, environment: &[String]) {
    let pool = Pool::on(&NatsServer::shared().url()).await;
    let folder = TempDir::new().expect("a temporary folder");
    let jobs = queue::open(&pool, streams()).await;
    let mut ends = queue::ends(&pool).await;
    // A second slot: the next door is open before the job before has ended.
    let model = format!("sim=sim://?step_ms=0&size={size}");
    let worker = worker_at(&pool, &folder, &model, 2, 0, store, environment);
    ready(&worker).await;
    let subject = pool.subjects.image(Capability::Generate);
    requests::run(&pool.client, &subject, REQUEST, None, 1, 100).await;
    queue::times(&mut ends, 100).await;
    for (what, ids) in [("a request", None), ("a request under an id of its own", Some("j"))] {
        let run = requests::run(&pool.client, &subject, REQUEST, ids, 1, LATENCY_JOBS).await;
        queue::times(&mut ends, LATENCY_JOBS).await;
        tell_latency(store, what, run.each);
    }
    let mut each = vec![];
    for _ in 0..LATENCY_JOBS {
        let begun = Instant::now();
        queue::fill(&jobs, REQUEST, 1).await;
        queue::times(&mut ends, 1).await;
        each.push(begun.elapsed());
    }
    tell_latency(store, "a job of the queue", each);
}

fn tell_latency(store: &str, what: &str, each: Vec<Duration>) {
    let spread = Spread::of(each.iter().map(|took| took.as_secs_f64() * 1e3).collect());
    println!("  {store}, {what}: {:.2} ms (99 %: {:.2} ms)", spread.at(0.5), spread.at(0.99));
}

/// Milliseconds to encode the picture of the simulation.
fn png_ms(size: u32) -> f64 {
    let operation = Operation::parse(Some(Capability::Generate), REQUEST.as_bytes()).expect("a request");
    let job = Job::new(operation, &Limits::default()).expect("a job");
    let spec =
        ImageSpec { steps: 1, seed: 7, ..ImageSpec::new("a", Source::Text { width: size, height: size }) };
    let image = image::RgbImage::from_pixel(size, size, image::Rgb([120, 40, 200]));
    let picture = Generated { index: 0, seed: 7, scheduler: "sim", image };
    let took = (0..50).map(|_| {
        let begun = Instant::now();
        encode(&job, &spec, "sim", &picture).expect("a PNG");
        begun.elapsed().as_secs_f64() * 1e3
    });
    Spread::of(took.collect()).at(0.5)
}

async fn gap() {
    let model = format!("sim=sim://?step_ms={GAP_STEP_MS}&size=512");
    let body = format!(r#"{{"prompt":"a","steps":{GAP_STEPS},"stream":false}}"#);
    let on_device = tokio::task::spawn_blocking(on_device_ms).await.expect("a thread");
    for prefetch in [0, 1] {
        let pool = Pool::on(&NatsServer::shared().url()).await;
        queue::fill(&queue::open(&pool, streams()).await, &body, GAP_JOBS).await;
        let folder = TempDir::new().expect("a temporary folder");
        let mut ends = queue::ends(&pool).await;
        let _worker = worker(&pool, &folder, &model, 1, prefetch);
        let times = queue::times(&mut ends, GAP_JOBS).await;
        let each = (times[GAP_JOBS - 1] - times[0]).as_secs_f64() * 1e3 / (GAP_JOBS - 1) as f64;
        println!(
            "gap, durable, --prefetch {prefetch}: {:.2} ms between jobs of {on_device:.1} ms",
            each - on_device
        );
    }
}

/// Milliseconds that the steps of a job really take: a sleep is longer than it was asked to be.
fn on_device_ms() -> f64 {
    let begun = Instant::now();
    for _ in 0..GAP_JOBS as u64 * GAP_STEPS {
        std::thread::sleep(Duration::from_millis(GAP_STEP_MS));
    }
    begun.elapsed().as_secs_f64() * 1e3 / GAP_JOBS as f64
}

#[tokio::main]
async fn main() {
    // cargo hands over a flag of its own.
    let wanted = std::env::args().skip(1).find(|argument| !argument.starts_with("--"));
    let is_wanted = |part: &str| wanted.as_deref().is_none_or(|wanted| part.contains(wanted));
    if is_wanted("requests") {
        requests().await;
    }
    if is_wanted("durable") {
        durable().await;
    }
    if is_wanted("latency") {
        latency().await;
    }
    if is_wanted("gap") {
        gap().await;
    }
}
