//! Counters and histograms with labels. However many values labels are given, so many series are kept and no more.

use std::{
    collections::BTreeMap,
    sync::{Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use super::Family;

/// The series of one family. What comes beyond them is counted together, with [`OTHER`] for every label.
pub const MAX_SERIES: usize = 2_000;
/// The value of labels that stands for all that there is no room for, and for models that nobody has.
pub const OTHER: &str = "other";

/// Upper bounds in seconds for what takes as long as a job: 50 ms to 10 minutes.
pub const JOB_SECONDS: &[f64] =
    &[0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 20.0, 30.0, 60.0, 120.0, 300.0, 600.0];
/// Upper bounds in seconds for what takes as long as a step: 10 ms to a minute.
pub const STEP_SECONDS: &[f64] = &[0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 20.0, 30.0, 60.0];

/// Values by labels, in the order of the labels.
#[derive(Debug)]
struct Series<const N: usize, V> {
    labels: [&'static str; N],
    values: Mutex<BTreeMap<[String; N], V>>,
}

impl<const N: usize, V> Series<N, V> {
    fn new(labels: [&'static str; N]) -> Self {
        Self { labels, values: Mutex::default() }
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<[String; N], V>> {
        // A panic in here leaves a number as it was, or one more.
        self.values.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Changes the value with these labels; a new one is `zero`.
    fn change(&self, of: [&str; N], zero: impl FnOnce() -> V, change: impl FnOnce(&mut V)) {
        let mut values = self.lock();
        let key = of.map(str::to_owned);
        let has_room = N == 0 || values.len() < MAX_SERIES || values.contains_key(&key);
        let key = if has_room { key } else { [const { OTHER }; N].map(str::to_owned) };
        change(values.entry(key).or_insert_with(zero));
    }
}

/// Numbers that only grow.
#[derive(Debug)]
pub struct Counters<const N: usize>(Series<N, u64>);

impl<const N: usize> Counters<N> {
    /// None counted; `labels` are their names.
    pub fn new(labels: [&'static str; N]) -> Self {
        Self(Series::new(labels))
    }

    /// Counts one.
    pub fn count(&self, of: [&str; N]) {
        self.add(of, 1);
    }

    /// Counts so many; 0 makes the series, so that its first one is seen as a growth.
    pub fn add(&self, of: [&str; N], number: u64) {
        self.0.change(of, || 0, |value| *value = value.wrapping_add(number));
    }

    /// The sum of those with labels that are `wanted`.
    pub fn sum(&self, wanted: impl Fn(&[String; N]) -> bool) -> u64 {
        self.0.lock().iter().filter(|(labels, _)| wanted(labels)).map(|(_, value)| value).sum()
    }

    /// Writes all of them.
    pub fn write(&self, mut family: Family<'_>) {
        for (values, number) in self.0.lock().iter() {
            family.labelled(&pairs(&self.0.labels, values), number);
        }
    }
}

/// Times by labels, in buckets.
#[derive(Debug)]
pub struct Histograms<const N: usize> {
    series: Series<N, Buckets>,
    bounds: &'static [f64],
}

#[derive(Debug)]
struct Buckets {
    /// Of each bound, and of what is longer than all of them: not yet added up.
    counts: Vec<u64>,
    sum: Duration,
}

impl<const N: usize> Histograms<N> {
    /// None seen; `bounds` are upper ones in seconds, in order.
    pub fn new(labels: [&'static str; N], bounds: &'static [f64]) -> Self {
        Self { series: Series::new(labels), bounds }
    }

    /// Takes note of a time.
    pub fn observe(&self, of: [&str; N], took: Duration) {
        let seconds = took.as_secs_f64();
        let bucket = self.bounds.partition_point(|bound| *bound < seconds);
        let none = || Buckets { counts: vec![0; self.bounds.len() + 1], sum: Duration::ZERO };
        self.series.change(of, none, |buckets| {
            buckets.counts[bucket] += 1;
            buckets.sum = buckets.sum.saturating_add(took);
        });
    }

    /// Writes all of them.
    pub fn write(&self, mut family: Family<'_>) {
        for (values, buckets) in self.series.lock().iter() {
            let labels = pairs(&self.series.labels, values);
            let bounds = self.bounds.iter().map(f64::to_string).chain(["+Inf".to_owned()]);
            let mut count = 0;
            for (bound, in_bucket) in bounds.zip(&buckets.counts) {
                count += in_bucket;
                family.sample("_bucket", &[&labels[..], &[("le", bound.as_str())]].concat(), count);
            }
            family.sample("_sum", &labels, buckets.sum.as_secs_f64());
            family.sample("_count", &labels, count);
        }
    }
}

fn pairs<'a, const N: usize>(
    names: &'a [&'static str; N],
    values: &'a [String; N],
) -> Vec<(&'a str, &'a str)> {
    names.iter().copied().zip(values.iter().map(String::as_str)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::metrics::Text;

    #[test]
    fn a_time_is_in_every_bucket_that_reaches_it() {
        let times = Histograms::new(["model"], &[0.5, 1.0]);
        for ms in [500, 501, 2_000] {
            times.observe(["m"], Duration::from_millis(ms));
        }
        let mut text = Text::new();
        times.write(text.histogram("sd_step_seconds", "Steps."));
        let text = text.finish();
        for line in [
            "sd_step_seconds_bucket{model=\"m\",le=\"0.5\"} 1\n",
            "sd_step_seconds_bucket{model=\"m\",le=\"1\"} 2\n",
            "sd_step_seconds_bucket{model=\"m\",le=\"+Inf\"} 3\n",
            "sd_step_seconds_sum{model=\"m\"} 3.001\n",
            "sd_step_seconds_count{model=\"m\"} 3\n",
        ] {
            assert!(text.contains(line), "{line} is not in {text}");
        }
    }

    #[test]
    fn a_hundred_thousand_models_are_two_thousand_series_and_all_are_counted() {
        let jobs = Counters::new(["model", "outcome"]);
        let times = Histograms::new(["model"], JOB_SECONDS);
        for number in 0..100_000 {
            let model = format!("model-{number}");
            jobs.count([&model, "complete"]);
            times.observe([&model], Duration::from_secs(1));
        }
        jobs.count(["model-0", "complete"]);
        assert_eq!(jobs.sum(|_| true), 100_001);
        assert_eq!(jobs.sum(|[model, _]| model == "model-0"), 2);
        assert_eq!(jobs.sum(|[model, outcome]| model == OTHER && outcome == OTHER), 98_000);
        assert_eq!(jobs.0.lock().len(), MAX_SERIES + 1);
        assert_eq!(times.series.lock().len(), MAX_SERIES + 1);
    }
}
