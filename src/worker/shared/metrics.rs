//! Counters since the start: for the services protocol's STATS and for /metrics.

use std::{
    fmt::Write,
    sync::atomic::{AtomicU64, Ordering},
    time::Duration,
};

use crate::{
    bus::Counts,
    contract::{Capability, EventKind},
};

/// How a job ended, as a label.
const ENDS: [&str; 3] = ["complete", "error", "cancelled"];

/// The counters of one worker.
#[derive(Debug, Default)]
pub struct Metrics {
    capabilities: [PerCapability; 3],
    refused: AtomicU64,
    passed_on: AtomicU64,
    redelivered: AtomicU64,
    resumed: AtomicU64,
    duplicates: AtomicU64,
    lost: AtomicU64,
    dead_letters: AtomicU64,
    /// Microseconds of a denoising step, a mean in which a job counts for an eighth; 0: none yet.
    step_us: AtomicU64,
}

#[derive(Debug, Default)]
struct PerCapability {
    ends: [AtomicU64; 3],
    nanoseconds: AtomicU64,
}

impl Metrics {
    /// A job ended, `took` after its receipt.
    pub fn ended(&self, capability: Capability, kind: &EventKind, took: Duration) {
        let of = &self.capabilities[index(capability)];
        if let Some(end) = ENDS.iter().position(|end| *end == kind.name()) {
            of.ends[end].fetch_add(1, Ordering::Relaxed);
        }
        of.nanoseconds.fetch_add(u64::try_from(took.as_nanos()).unwrap_or(u64::MAX), Ordering::Relaxed);
    }

    /// The steps of a job took this long each.
    pub fn stepped(&self, each: Duration) {
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
        self.capabilities.iter().flat_map(|of| &of.ends).map(|ends| ends.load(Ordering::Relaxed)).sum()
    }

    /// A message was answered with an error before it was a job.
    pub fn refused(&self) {
        self.refused.fetch_add(1, Ordering::Relaxed);
    }

    /// A message was offered again.
    pub fn passed_on(&self) {
        self.passed_on.fetch_add(1, Ordering::Relaxed);
    }

    /// A job of the queue came not for the first time.
    pub fn redelivered(&self) {
        self.redelivered.fetch_add(1, Ordering::Relaxed);
    }

    /// A job went on from a checkpoint.
    pub fn resumed(&self) {
        self.resumed.fetch_add(1, Ordering::Relaxed);
    }

    /// A job that had ended came again and was not computed.
    pub fn duplicate(&self) {
        self.duplicates.fetch_add(1, Ordering::Relaxed);
    }

    /// A job that ran here was taken over by another worker.
    pub fn lost(&self) {
        self.lost.fetch_add(1, Ordering::Relaxed);
    }

    /// A job was put among the dead letters.
    pub fn dead_letter(&self) {
        self.dead_letters.fetch_add(1, Ordering::Relaxed);
    }

    /// For STATS.
    pub fn counts(&self, capability: Capability) -> Counts {
        let of = &self.capabilities[index(capability)];
        let ends: Vec<u64> = of.ends.iter().map(|end| end.load(Ordering::Relaxed)).collect();
        Counts {
            requests: ends.iter().sum(),
            errors: ends[1],
            nanoseconds: of.nanoseconds.load(Ordering::Relaxed),
        }
    }

    /// In the text format of Prometheus.
    pub fn to_text(&self, capacity: usize, free: usize) -> String {
        let mut text = String::new();
        let mut family = |name: &str, kind: &str, help: &str, samples: &[(String, u64)]| {
            let _ = writeln!(text, "# HELP {name} {help}\n# TYPE {name} {kind}");
            for (labels, value) in samples {
                let _ = writeln!(text, "{name}{labels} {value}");
            }
        };
        let ends: Vec<_> = Capability::ALL
            .into_iter()
            .flat_map(|capability| ENDS.iter().enumerate().map(move |(i, end)| (capability, i, end)))
            .map(|(capability, i, end)| {
                let value = self.capabilities[index(capability)].ends[i].load(Ordering::Relaxed);
                (format!("{{capability=\"{capability}\",end=\"{end}\"}}"), value)
            })
            .collect();
        family("sd_worker_jobs_total", "counter", "Jobs that ended.", &ends);
        let one = |value: u64| [(String::new(), value)];
        let counters = [
            ("refused", &self.refused, "Messages refused before they were jobs."),
            ("passed_on", &self.passed_on, "Messages offered to other workers."),
            ("redelivered", &self.redelivered, "Jobs of the queue that came not for the first time."),
            ("resumed", &self.resumed, "Jobs that went on from a checkpoint."),
            ("duplicates", &self.duplicates, "Jobs that had ended, came again and were not computed."),
            ("lost", &self.lost, "Jobs that ran here and were taken over by another worker."),
            ("dead_letters", &self.dead_letters, "Jobs put among the dead letters."),
        ];
        for (name, counter, help) in counters {
            let value = counter.load(Ordering::Relaxed);
            family(&format!("sd_worker_{name}_total"), "counter", help, &one(value));
        }
        family("sd_worker_slots", "gauge", "Jobs that may run together.", &one(capacity as u64));
        family("sd_worker_slots_free", "gauge", "Jobs that would be taken now.", &one(free as u64));
        text
    }
}

fn index(capability: Capability) -> usize {
    match capability {
        Capability::Generate => 0,
        Capability::Transform => 1,
        Capability::Inpaint => 2,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_end_is_counted_under_its_capability() {
        let metrics = Metrics::default();
        metrics.ended(Capability::Inpaint, &EventKind::Cancelled { step: 1 }, Duration::from_millis(2));
        assert_eq!(metrics.counts(Capability::Inpaint).requests, 1);
        assert_eq!(metrics.counts(Capability::Generate).requests, 0);
        let text = metrics.to_text(2, 1);
        assert!(
            text.contains("sd_worker_jobs_total{capability=\"inpaint\",end=\"cancelled\"} 1\n"),
            "{text}"
        );
        assert!(text.contains("sd_worker_slots_free 1\n"), "{text}");
    }
}
