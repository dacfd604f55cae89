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

    /// A message was answered with an error before it was a job.
    pub fn refused(&self) {
        self.refused.fetch_add(1, Ordering::Relaxed);
    }

    /// A message was offered again.
    pub fn passed_on(&self) {
        self.passed_on.fetch_add(1, Ordering::Relaxed);
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
        let refused = self.refused.load(Ordering::Relaxed);
        family(
            "sd_worker_refused_total",
            "counter",
            "Messages refused before they were jobs.",
            &one(refused),
        );
        let passed_on = self.passed_on.load(Ordering::Relaxed);
        family("sd_worker_passed_on_total", "counter", "Messages offered to other workers.", &one(passed_on));
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
