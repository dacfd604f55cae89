//! What a worker counts since its start: for /metrics, for the heartbeat, and for STATS of the services protocol.
//! The label `model` has names of the worker's own list alone, whatever jobs ask for.

use std::{
    sync::atomic::{AtomicU64, Ordering},
    time::Duration,
};

use crate::{
    bus::Counts,
    contract::{Capability, ErrorCode, EventKind},
    engine::EngineTimings,
    metrics::{Counters, Histograms, JOB_SECONDS, STEP_SECONDS, Text},
};

/// The counters of one worker.
#[derive(Debug)]
pub struct Metrics {
    jobs: Counters<4>,
    failed_attempts: Counters<2>,
    steps: Counters<1>,
    images: Counters<1>,
    happened: [AtomicU64; Happened::ALL.len()],
    job_seconds: Histograms<2>,
    queue_seconds: Histograms<1>,
    step_seconds: Histograms<1>,
    text_seconds: Histograms<1>,
    decode_seconds: Histograms<1>,
    encode_seconds: Histograms<1>,
    upload_seconds: Histograms<1>,
    /// What the jobs of each capability took in all.
    nanoseconds: [AtomicU64; Capability::ALL.len()],
    /// Microseconds of a denoising step, a mean in which a job counts for an eighth; 0: none yet.
    step_us: AtomicU64,
}

/// What is counted without labels.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Happened {
    /// A message was answered with an error before it was a job.
    Refused,
    /// A message was offered again.
    PassedOn,
    /// A job of the queue came not for the first time.
    Redelivered,
    /// A snapshot was stored.
    Snapshot,
    /// A job went on from a snapshot.
    Resumed,
    /// A job that had ended came again and was not computed.
    Duplicate,
    /// A job that ran here was taken over by another worker.
    Lost,
    /// A job was put among the dead letters.
    DeadLetter,
}

impl Happened {
    const ALL: [Self; 8] = [
        Self::Refused,
        Self::PassedOn,
        Self::Redelivered,
        Self::Snapshot,
        Self::Resumed,
        Self::Duplicate,
        Self::Lost,
        Self::DeadLetter,
    ];

    fn family(self) -> (&'static str, &'static str) {
        match self {
            Self::Refused => ("sd_worker_refused_total", "Messages refused before they were jobs."),
            Self::PassedOn => ("sd_worker_passed_on_total", "Messages offered to other workers."),
            Self::Redelivered => {
                ("sd_worker_redelivered_total", "Jobs of the queue that came not for the first time.")
            }
            Self::Snapshot => ("sd_worker_snapshots_total", "Snapshots of durable jobs that were stored."),
            Self::Resumed => ("sd_worker_resumed_total", "Jobs that went on from a snapshot."),
            Self::Duplicate => {
                ("sd_worker_duplicates_total", "Jobs that had ended, came again and were not computed.")
            }
            Self::Lost => {
                ("sd_worker_lost_total", "Jobs that ran here and were taken over by another worker.")
            }
            Self::DeadLetter => ("sd_worker_dead_letters_total", "Jobs put among the dead letters."),
        }
    }
}

impl Metrics {
    /// Nothing counted. How the jobs of each operation and model end well is there from the beginning, with 0.
    pub fn new<'a>(models: impl Iterator<Item = &'a str>, capabilities: &[Capability]) -> Self {
        let times = |bounds| Histograms::new(["model"], bounds);
        let metrics = Self {
            jobs: Counters::new(["operation", "model", "outcome", "code"]),
            failed_attempts: Counters::new(["model", "code"]),
            steps: Counters::new(["model"]),
            images: Counters::new(["model"]),
            happened: Default::default(),
            job_seconds: Histograms::new(["operation", "model"], JOB_SECONDS),
            queue_seconds: times(JOB_SECONDS),
            step_seconds: times(STEP_SECONDS),
            text_seconds: times(STEP_SECONDS),
            decode_seconds: times(STEP_SECONDS),
            encode_seconds: times(STEP_SECONDS),
            upload_seconds: times(STEP_SECONDS),
            nanoseconds: Default::default(),
            step_us: AtomicU64::new(0),
        };
        for model in models {
            metrics.steps.add([model], 0);
            metrics.images.add([model], 0);
            for capability in capabilities {
                for outcome in ["complete", "cancelled"] {
                    metrics.jobs.add([capability.operation(), model, outcome, ""], 0);
                }
            }
        }
        metrics
    }

    /// Something happened.
    pub fn note(&self, what: Happened) {
        self.happened[what as usize].fetch_add(1, Ordering::Relaxed);
    }

    /// A job for one of the worker's models ended, `took` after its receipt.
    pub fn ended(&self, capability: Capability, model: &str, kind: &EventKind, took: Duration) {
        let code = match kind {
            EventKind::Error { code, .. } => code.code(),
            _ => "",
        };
        self.jobs.count([capability.operation(), model, kind.name(), code]);
        let nanoseconds = u64::try_from(took.as_nanos()).unwrap_or(u64::MAX);
        self.nanoseconds[capability as usize].fetch_add(nanoseconds, Ordering::Relaxed);
        if matches!(kind, EventKind::Complete(_)) {
            self.job_seconds.observe([capability.operation(), model], took);
        }
    }

    /// An attempt at a job failed, whether it is the last or not.
    pub fn failed(&self, model: &str, code: ErrorCode) {
        self.failed_attempts.count([model, code.code()]);
    }

    /// A job's pictures are drawn, in so many steps.
    pub fn drawn(&self, model: &str, timings: &EngineTimings, steps: u32) {
        self.queue_seconds.observe([model], timings.queue);
        self.text_seconds.observe([model], timings.text);
        self.decode_seconds.observe([model], timings.decode);
        self.stepped(timings.denoise / steps.max(1));
    }

    /// A pass took a job so many steps further.
    pub fn passed(&self, model: &str, steps: u32, took: Duration) {
        self.step_seconds.observe([model], took);
        self.steps.add([model], steps.into());
    }

    /// A picture was encoded.
    pub fn encoded(&self, model: &str, took: Duration) {
        self.encode_seconds.observe([model], took);
    }

    /// A picture was stored.
    pub fn stored(&self, model: &str, took: Duration) {
        self.upload_seconds.observe([model], took);
        self.images.count([model]);
    }

    fn stepped(&self, each: Duration) {
        let us = u64::try_from(each.as_micros()).unwrap_or(u64::MAX).max(1);
        // A job that ends at the same moment may be left out of the mean.
        let before = self.step_us.load(Ordering::Relaxed);
        let mean = if before == 0 { us } else { before - before / 8 + us / 8 };
        self.step_us.store(mean.max(1), Ordering::Relaxed);
    }

    /// Milliseconds of a denoising step, of the latest jobs.
    pub fn step_ms(&self) -> Option<f64> {
        let us = self.step_us.load(Ordering::Relaxed);
        (us > 0).then_some(us as f64 / 1e3)
    }

    /// Jobs that ended here.
    pub fn jobs_done(&self) -> u64 {
        self.jobs.sum(|_| true)
    }

    /// For STATS.
    pub fn counts(&self, capability: Capability) -> Counts {
        let of = capability.operation();
        Counts {
            requests: self.jobs.sum(|[operation, ..]| operation == of),
            errors: self.jobs.sum(|[operation, _, outcome, _]| operation == of && outcome == "error"),
            nanoseconds: self.nanoseconds[capability as usize].load(Ordering::Relaxed),
        }
    }

    /// Writes all of it.
    pub fn write(&self, text: &mut Text) {
        self.jobs.write(text.counter("sd_worker_jobs_total", "Jobs that ended."));
        self.failed_attempts.write(
            text.counter("sd_worker_failed_attempts_total", "Attempts at jobs that failed, the last or not."),
        );
        self.steps.write(text.counter("sd_worker_steps_total", "Denoising steps of pictures."));
        self.images.write(text.counter("sd_worker_images_total", "Pictures that were stored."));
        for what in Happened::ALL {
            let (name, help) = what.family();
            text.counter(name, help).value(self.happened[what as usize].load(Ordering::Relaxed));
        }
        let histograms = [
            ("sd_job_queue_seconds", "From a job's receipt to its beginning.", &self.queue_seconds),
            ("sd_text_seconds", "Reading the prompt and the inputs of a job.", &self.text_seconds),
            ("sd_step_seconds", "A pass through the network.", &self.step_seconds),
            ("sd_decode_seconds", "Decoding the pictures of a job.", &self.decode_seconds),
            ("sd_encode_seconds", "Encoding a picture.", &self.encode_seconds),
            ("sd_upload_seconds", "Storing a picture.", &self.upload_seconds),
        ];
        self.job_seconds
            .write(text.histogram("sd_job_seconds", "From a job's receipt to its end, of completed jobs."));
        for (name, help, times) in histograms {
            times.write(text.histogram(name, help));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_end_is_counted_under_its_operation_and_model_and_an_error_under_its_code() {
        let metrics = Metrics::new(["m"].into_iter(), &Capability::ALL);
        metrics.ended(Capability::Inpaint, "m", &EventKind::Cancelled { step: 1 }, Duration::from_millis(2));
        let failed = EventKind::error(ErrorCode::OutOfMemory, "x");
        metrics.ended(Capability::Inpaint, "m", &failed, Duration::from_millis(2));
        let counts = metrics.counts(Capability::Inpaint);
        assert_eq!((counts.requests, counts.errors, counts.nanoseconds), (2, 1, 4_000_000));
        assert_eq!(metrics.counts(Capability::Generate).requests, 0);
        let mut text = Text::new();
        metrics.write(&mut text);
        let text = text.finish();
        for line in [
            r#"sd_worker_jobs_total{operation="image_inpaint",model="m",outcome="cancelled",code=""} 1"#,
            r#"sd_worker_jobs_total{operation="image_inpaint",model="m",outcome="error",code="out_of_memory"} 1"#,
            r#"sd_worker_jobs_total{operation="image_generation",model="m",outcome="complete",code=""} 0"#,
        ] {
            assert!(text.contains(line), "{line} is not in {text}");
        }
    }
}
