//! What a process counts and how it is told to Prometheus: the text format 0.0.4, counters and histograms with labels.
//! What is counted is written beside who counts it (`worker/shared/metrics`, `queen/metrics`); docs/metrics.md says what
//! each name means.

mod process;
mod series;

use std::fmt::{Display, Write};

use axum::{
    http::header::CONTENT_TYPE,
    response::{IntoResponse, Response},
};

pub use process::note_start;
pub use series::{Counters, Histograms, JOB_SECONDS, MAX_SERIES, OTHER, STEP_SECONDS};

/// The media type of a page.
const TEXT: &str = "text/plain; version=0.0.4; charset=utf-8";

/// A page of metrics, being written. Each family is written once.
#[derive(Debug, Default)]
pub struct Text(String);

/// One family of a page: samples are written into it.
#[derive(Debug)]
pub struct Family<'a> {
    text: &'a mut String,
    name: &'static str,
}

impl Text {
    /// Nothing yet.
    pub fn new() -> Self {
        Self::default()
    }

    /// A family of numbers that only grow. Its name ends in `_total`.
    pub fn counter(&mut self, name: &'static str, help: &str) -> Family<'_> {
        self.family(name, "counter", help)
    }

    /// A family of numbers that come and go.
    pub fn gauge(&mut self, name: &'static str, help: &str) -> Family<'_> {
        self.family(name, "gauge", help)
    }

    /// A family of times, in buckets. Its name ends in `_seconds`.
    pub fn histogram(&mut self, name: &'static str, help: &str) -> Family<'_> {
        self.family(name, "histogram", help)
    }

    /// What every process tells of itself.
    pub fn process(&mut self) {
        process::write(self);
    }

    /// The page.
    pub fn finish(self) -> String {
        self.0
    }

    fn family(&mut self, name: &'static str, kind: &str, help: &str) -> Family<'_> {
        write(&mut self.0, format_args!("# HELP {name} {help}\n# TYPE {name} {kind}\n"));
        Family { text: &mut self.0, name }
    }
}

impl IntoResponse for Text {
    fn into_response(self) -> Response {
        ([(CONTENT_TYPE, TEXT)], self.0).into_response()
    }
}

impl Family<'_> {
    /// A sample without labels.
    pub fn value(&mut self, value: impl Display) {
        self.labelled(&[], value);
    }

    /// A sample.
    pub fn labelled(&mut self, labels: &[(&str, &str)], value: impl Display) {
        self.sample("", labels, value);
    }

    fn sample(&mut self, suffix: &str, labels: &[(&str, &str)], value: impl Display) {
        self.text.push_str(self.name);
        self.text.push_str(suffix);
        for (index, (name, value)) in labels.iter().enumerate() {
            self.text.push(if index == 0 { '{' } else { ',' });
            self.text.push_str(name);
            self.text.push_str("=\"");
            escape(value, self.text);
            self.text.push('"');
        }
        if !labels.is_empty() {
            self.text.push('}');
        }
        write(self.text, format_args!(" {value}\n"));
    }
}

/// The value of a label as the format has it.
fn escape(value: &str, into: &mut String) {
    for c in value.chars() {
        match c {
            '\\' => into.push_str("\\\\"),
            '"' => into.push_str("\\\""),
            '\n' => into.push_str("\\n"),
            c => into.push(c),
        }
    }
}

/// A string takes whatever is written.
fn write(into: &mut String, what: std::fmt::Arguments<'_>) {
    let _ = into.write_fmt(what);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_page_has_a_help_and_a_type_for_each_family_and_labels_that_are_escaped() {
        let mut text = Text::new();
        text.gauge("sd_slots", "Jobs that may run together.").value(2);
        let mut jobs = text.counter("sd_jobs_total", "Jobs that ended.");
        jobs.labelled(&[("model", "a\\b\"c\nd"), ("outcome", "complete")], 7);
        assert_eq!(
            text.finish(),
            "# HELP sd_slots Jobs that may run together.\n# TYPE sd_slots gauge\nsd_slots 2\n\
             # HELP sd_jobs_total Jobs that ended.\n# TYPE sd_jobs_total counter\n\
             sd_jobs_total{model=\"a\\\\b\\\"c\\nd\",outcome=\"complete\"} 7\n"
        );
    }
}
