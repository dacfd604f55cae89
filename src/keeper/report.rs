//! What the user sees. Pictures' paths go to standard output, everything said on the way to standard error:
//! a bar on a terminal, plain lines elsewhere. With `--json` standard output has one line per event and nothing else.

use std::{io::IsTerminal, path::PathBuf, time::Duration};

use indicatif::{ProgressBar, ProgressStyle};
use serde::Serialize;

use super::KeeperError;
use crate::contract::{DeadLetter, Event, EventKind, JobId};

/// How often the bar moves between events.
const TICK: Duration = Duration::from_millis(120);

/// Says what happens.
#[derive(Debug)]
pub struct Reporter {
    json: bool,
    /// On a terminal only.
    bar: Option<ProgressBar>,
}

/// A `complete` event and the files that its pictures were written to.
#[derive(Serialize)]
struct Saved<'a> {
    #[serde(flatten)]
    event: &'a Event,
    files: &'a [PathBuf],
}

impl Reporter {
    /// A bar if a person is looking, plain lines if not.
    pub fn new(json: bool) -> Self {
        let bar = (!json && std::io::stderr().is_terminal()).then(|| {
            let style = ProgressStyle::with_template("{spinner} {msg} [{bar:30}] {pos}/{len}")
                .expect("the template is well formed")
                .progress_chars("=> ");
            ProgressBar::no_length().with_style(style).with_message("sending")
        });
        if let Some(bar) = &bar {
            bar.enable_steady_tick(TICK);
        }
        Self { json, bar }
    }

    /// No bar, whoever is looking.
    pub fn plain(json: bool) -> Self {
        Self { json, bar: None }
    }

    /// A dead letter of the list: one line, on standard output.
    pub fn dead_letter(&self, letter: &DeadLetter) {
        if self.json {
            return print_json(letter);
        }
        let DeadLetter { job_id, capability, model, code, message, time, .. } = letter;
        let message = message.replace(char::is_control, " ");
        print_line(&format!("{time}  {job_id}  {capability}  {model}  {code}: {message}"));
    }

    /// What was done to the dead letter of a job.
    pub fn did(&self, job: &JobId, what: &str) {
        match self.json {
            true => print_json(&serde_json::json!({ "job_id": job, "done": what })),
            false => print_line(&format!("{job} {what}")),
        }
    }

    /// Queen has the job.
    pub fn submitted(&self, job: &JobId) {
        match &self.bar {
            Some(bar) => bar.set_message("waiting for a worker"),
            None => self.note(&format!("job {job}")),
        }
    }

    /// The connection broke; it is being made again.
    pub fn reconnecting(&self) {
        match &self.bar {
            Some(bar) => bar.set_message("looking for queen again"),
            None => self.note("the connection to queen broke; connecting again"),
        }
    }

    /// An event on the way, or an end without pictures.
    pub fn event(&self, event: &Event) {
        if self.json {
            print_json(event);
            return;
        }
        match (&event.kind, &self.bar) {
            (EventKind::Accepted { .. }, Some(bar)) => bar.set_message("drawing"),
            (EventKind::Accepted { model, seed, position }, None) => {
                let behind = if *position > 0 { format!(", behind {position}") } else { String::new() };
                self.note(&format!("{} draws it with {model}, seed {seed}{behind}", event.worker_id));
            }
            (EventKind::Progress { step, total, .. }, Some(bar)) => {
                bar.set_message("drawing");
                bar.set_length(u64::from(*total));
                bar.set_position(u64::from(*step));
            }
            (EventKind::Progress { step, total, percent, .. }, None) => {
                self.note(&format!("step {step}/{total} ({percent:.0} %)"));
            }
            // What ended without pictures is told by the error that follows.
            (
                EventKind::Preview { .. }
                | EventKind::Complete(_)
                | EventKind::Error { .. }
                | EventKind::Cancelled { .. },
                _,
            ) => {}
        }
    }

    /// The pictures are there.
    pub fn complete(&self, event: &Event, warnings: &[String], files: &[PathBuf]) {
        if self.json {
            print_json(&Saved { event, files });
            return;
        }
        self.stop_bar();
        for warning in warnings {
            self.note(&format!("warning: {warning}"));
        }
        for file in files {
            print_line(&file.display().to_string());
        }
    }

    /// The end, when it is none of the good ones.
    pub fn error(&self, error: &KeeperError) {
        self.stop_bar();
        eprintln!("rbee-keeper: {error}");
    }

    /// Nothing moves any more.
    pub fn stop_bar(&self) {
        if let Some(bar) = &self.bar {
            bar.finish_and_clear();
        }
    }

    /// A line for the user.
    pub fn note(&self, text: &str) {
        match &self.bar {
            Some(bar) => bar.suspend(|| eprintln!("{text}")),
            None if self.json => {}
            None => eprintln!("{text}"),
        }
    }
}

fn print_json(value: &impl Serialize) {
    print_line(&serde_json::to_string(value).expect("what is told has string keys only"));
}

/// Standard output may be a pipe that its reader has closed: the job goes on, its files are what counts.
fn print_line(text: &str) {
    use std::io::Write;
    let _ = writeln!(std::io::stdout(), "{text}");
}
