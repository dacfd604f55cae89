//! What the user sees. Pictures' paths go to standard output, everything said on the way to standard error: with a bar on a
//! terminal, in plain lines elsewhere. With `--json` standard output has one line per event and nothing else.

use std::{
    cell::Cell,
    io::{self, IsTerminal, Write},
    path::{Path, PathBuf},
    time::Duration,
};

use indicatif::{ProgressBar, ProgressStyle};
use serde::Serialize;

use super::{
    KeeperError,
    console::{Console, printable},
    table,
    terminal::Terminal,
};
use crate::contract::{DeadLetter, Event, EventKind, JobId, Queued};

/// How often the bar moves between events.
const TICK: Duration = Duration::from_millis(120);
/// The longest wait for somebody who reads what was told when all is over.
const LAST_WORDS: Duration = Duration::from_secs(1);

/// Says what happens.
#[derive(Debug)]
pub struct Reporter {
    json: bool,
    quiet: bool,
    console: Console,
    /// On a terminal only.
    bar: Option<ProgressBar>,
    /// Where pictures are shown.
    terminal: Option<Terminal>,
    /// Whether a picture is the last that was said.
    picture_is_last: Cell<bool>,
}

/// A `complete` event and the files that its pictures were written to.
#[derive(Serialize)]
struct Saved<'a> {
    #[serde(flatten)]
    event: &'a Event,
    files: Vec<String>,
}

impl Reporter {
    /// A bar if a person is looking, plain lines if not.
    pub fn new(json: bool, quiet: bool) -> Self {
        let is_plain = std::env::var_os("TERM").is_some_and(|term| term == "dumb");
        let bar = (!json && !quiet && io::stderr().is_terminal() && !is_plain).then(|| {
            let style = ProgressStyle::with_template("{spinner} [{bar:30}] {pos}/{len} {msg}")
                .expect("the template is well formed")
                .progress_chars("=> ");
            ProgressBar::no_length().with_style(style).with_message("sending")
        });
        if let Some(bar) = &bar {
            bar.enable_steady_tick(TICK);
        }
        let (terminal, picture_is_last) = (None, Cell::new(false));
        Self { json, quiet, console: Console::new(), bar, terminal, picture_is_last }
    }

    /// No bar, whoever is looking.
    pub fn plain(json: bool, quiet: bool) -> Self {
        let (terminal, picture_is_last) = (None, Cell::new(false));
        Self { json, quiet, console: Console::new(), bar: None, terminal, picture_is_last }
    }

    /// Shows pictures as they come.
    ///
    /// # Errors
    /// Why there is nobody who could see them.
    pub fn show_pictures(&mut self) -> Result<(), &'static str> {
        if self.bar.is_none() {
            return Err("there must be a terminal on standard error, and neither --json nor --quiet");
        }
        self.terminal = Some(Terminal::of_environment()?);
        Ok(())
    }

    /// A picture, or how it looks while it is drawn: over the one before, unless something was said since.
    pub fn picture(&self, bytes: &[u8]) {
        let (Some(terminal), Some(bar)) = (self.terminal, &self.bar) else { return };
        let Some(shown) = terminal.show(bytes, self.picture_is_last.replace(true)) else { return };
        // A terminal that takes nothing more says so in no way that helps.
        bar.suspend(|| drop(io::stderr().lock().write_all(shown.as_bytes())));
    }

    /// Whether standard output has objects, a line each.
    pub fn is_json(&self) -> bool {
        self.json
    }

    /// An object on standard output.
    pub async fn json(&self, value: &impl Serialize) {
        self.print_json(value).await;
    }

    /// A line on standard output. What others say in it moves no cursor.
    pub async fn line(&self, text: String) {
        self.console.out(printable(&text)).await;
    }

    /// Text of keeper's own on standard output, as it is.
    pub async fn text(&self, text: &str) {
        self.console.out(text.to_owned()).await;
    }

    /// A table on standard output.
    pub async fn table<const N: usize>(&self, heading: [&str; N], rows: &[[String; N]]) {
        for line in table::lines(heading, rows) {
            self.console.out(line).await;
        }
    }

    /// A job was sent, and is not followed.
    pub async fn sent(&self, job: &JobId) {
        self.stop_bar();
        match self.json {
            true => self.print_json(&serde_json::json!({ "job_id": job })).await,
            false => self.console.out(job.to_string()).await,
        }
        self.note(&format!("`rbee-keeper job watch {job} -o FILE` follows it and fetches its pictures"));
    }

    /// One of several errors, which is not the last.
    pub fn failure(&self, error: &KeeperError) {
        self.console.err(&format!("rbee-keeper: {error}"));
    }

    /// Dead letters, on standard output: a table, or an object a line.
    pub async fn dead_letters(&self, letters: &[DeadLetter]) {
        if self.json {
            for letter in letters {
                self.print_json(letter).await;
            }
            return;
        }
        if letters.is_empty() {
            return self.note("there are no dead letters");
        }
        let rows: Vec<_> = letters
            .iter()
            .map(|DeadLetter { job_id, capability, model, code, message, time, .. }| {
                let (job, does) = (job_id.to_string(), capability.to_string());
                [to_the_second(time), job, does, model.clone(), format!("{code}: {message}")]
            })
            .collect();
        self.table(["TIME", "JOB", "DOES", "MODEL", "WHY"], &rows).await;
    }

    /// What was done to the dead letter of a job.
    pub async fn did(&self, job: &JobId, what: &str) {
        match self.json {
            true => self.print_json(&serde_json::json!({ "job_id": job, "done": what })).await,
            false => self.console.out(format!("{job} {what}")).await,
        }
    }

    /// Queen has the job.
    pub fn submitted(&self, job: &JobId) {
        self.note(&format!("job {job}"));
        self.set_message("waiting for a worker");
    }

    /// The job waits, for this reason.
    pub fn waiting(&self, why: &str) {
        self.note(why);
    }

    /// Where the job stands in line; `data`: the same as queen says it. Why nobody takes it is told elsewhere.
    pub async fn queued(&self, queued: &Queued, data: &str) {
        match queued.position {
            _ if self.json => self.raw(data).await,
            Some(0) | None => {}
            Some(1) => self.note("one job is to begin before it"),
            Some(jobs) => self.note(&format!("{jobs} jobs are to begin before it")),
        }
    }

    /// Queen did not answer, or not as it should; it is asked again.
    pub fn asking_again(&self, error: &KeeperError) {
        self.note(&format!("{error}; trying again"));
        self.set_message("looking for queen again");
    }

    /// An event on the way, or an end without pictures.
    pub async fn event(&self, event: &Event) {
        if self.json {
            return self.print_json(event).await;
        }
        match (&event.kind, &self.bar) {
            (EventKind::Accepted { model, seed, position }, _) => {
                let behind = if *position > 0 { format!(", behind {position}") } else { String::new() };
                self.note(&format!("{} draws it with {model}, seed {seed}{behind}", event.worker_id));
                self.set_message("drawing");
            }
            (EventKind::Progress { step, total, eta_ms, .. }, Some(bar)) => {
                bar.set_length(u64::from(*total));
                bar.set_position(u64::from(*step));
                self.set_message(&left(*step, *total, *eta_ms));
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

    /// An event that this version does not know, as it came.
    pub async fn raw(&self, data: &str) {
        if self.json {
            // It may have come in several lines.
            self.console.out(data.replace(['\r', '\n'], " ")).await;
        }
    }

    /// The pictures are there. Standard output may be the place of one: then it has nothing else.
    pub async fn complete(&self, event: &Event, warnings: &[String], files: &[PathBuf]) {
        if self.json {
            // A name need not be UTF-8, and JSON must be.
            let files = files.iter().map(|file| file.display().to_string()).collect();
            return self.print_json(&Saved { event, files }).await;
        }
        self.stop_bar();
        for warning in warnings {
            self.note(&format!("warning: {warning}"));
        }
        for file in files.iter().filter(|file| *file != Path::new("-")) {
            self.console.out(file.display().to_string()).await;
            if self.bar.is_some() && !io::stdout().is_terminal() {
                self.note(&format!("saved {}", file.display()));
            }
        }
    }

    /// The end, when it is none of the good ones.
    pub fn error(&self, error: &KeeperError) {
        self.stop_bar();
        self.console.err(&format!("rbee-keeper: {error}"));
        if let Some(next) = error.next() {
            self.console.err(&format!("rbee-keeper: {next}"));
        }
    }

    /// Waits until standard output has all that was told.
    ///
    /// # Errors
    /// It does not take it.
    pub async fn flush(&self) -> io::Result<()> {
        self.console.flush_out().await
    }

    /// Waits a moment for whoever reads what was told.
    pub async fn last_words(&self) {
        self.console.last_words(LAST_WORDS).await;
    }

    /// Nothing moves any more.
    pub fn stop_bar(&self) {
        if let Some(bar) = &self.bar {
            bar.finish_and_clear();
        }
    }

    /// A line for the user.
    pub fn note(&self, text: &str) {
        self.picture_is_last.set(false);
        match &self.bar {
            Some(bar) if !bar.is_finished() => bar.println(printable(text)),
            None if self.json || self.quiet => {}
            Some(_) | None => self.console.err(text),
        }
    }

    fn set_message(&self, text: &str) {
        if let Some(bar) = &self.bar {
            bar.set_message(printable(text));
        }
    }

    async fn print_json(&self, value: &impl Serialize) {
        let line = serde_json::to_string(value).expect("what is told has string keys, and text in UTF-8");
        self.console.out(line).await;
    }
}

/// What the bar says beside its steps. Of the first steps nobody knows how long the rest takes.
fn left(step: u32, total: u32, eta_ms: u64) -> String {
    match eta_ms {
        _ if step >= total => "drawn; fetching it".to_owned(),
        0 => "drawing".to_owned(),
        // Whole seconds, rounded up: 0 would mean that it is done.
        eta => {
            let left = Duration::from_secs(eta.div_ceil(1000));
            format!("drawing, {} left", humantime::format_duration(left))
        }
    }
}

/// A time without the parts of a second.
fn to_the_second(time: &str) -> String {
    match time.split_once('.') {
        Some((seconds, _)) if time.ends_with('Z') => format!("{seconds}Z"),
        _ => time.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_time_that_is_left_is_told_where_it_is_known() {
        assert_eq!(left(1, 20, 0), "drawing");
        assert_eq!(left(5, 20, 12_001), "drawing, 13s left");
        assert_eq!(left(5, 20, 75_000), "drawing, 1m 15s left");
        assert_eq!(left(20, 20, 0), "drawn; fetching it");
    }

    #[test]
    fn a_time_in_a_table_has_seconds() {
        assert_eq!(to_the_second("2026-11-27T15:51:46.123456789Z"), "2026-11-27T15:51:46Z");
        assert_eq!(to_the_second("2026-11-27T15:51:46Z"), "2026-11-27T15:51:46Z");
        assert_eq!(to_the_second("2026-11-27T15:51:46.5+01:00"), "2026-11-27T15:51:46.5+01:00");
    }
}
