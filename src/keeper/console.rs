//! Standard output and standard error, and the one place that writes to them. Either may be closed, full, a pipe that
//! nobody reads, or one whose reader has gone: none of it stops a job, and none of it stops a signal. Each has a thread that
//! writes; whoever tells something waits for room (standard output) or goes on without (standard error).

use std::{
    io::{self, Write},
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use tokio::sync::{mpsc, oneshot};

/// Lines that wait for a slow reader. More of them on standard error are lost.
const WAITING_LINES: usize = 1024;

/// Both of them.
#[derive(Debug)]
pub struct Console {
    out: Lines,
    err: Lines,
}

#[derive(Debug)]
struct Lines {
    queue: mpsc::Sender<Entry>,
    failed: Arc<Mutex<Option<io::Error>>>,
}

#[derive(Debug)]
enum Entry {
    Line(String),
    /// What was told before has been written, or could not be.
    Flush(oneshot::Sender<()>),
}

impl Console {
    /// Starts to write.
    pub fn new() -> Self {
        Self { out: Lines::new("stdout", io::stdout), err: Lines::new("stderr", io::stderr) }
    }

    /// A line on standard output, as it is.
    pub async fn out(&self, line: String) {
        // It fails where the thread could not be started, which `failed` says.
        let _ = self.out.queue.send(Entry::Line(line)).await;
    }

    /// A line on standard error; control characters are taken out, for what others say must not move the cursor. It is lost
    /// where there is no room for it: progress is no reason to wait.
    pub fn err(&self, line: &str) {
        let _ = self.err.queue.try_send(Entry::Line(printable(line)));
    }

    /// Waits until standard output has all that was told.
    ///
    /// # Errors
    /// What the system says of the first line that could not be written. A reader that has gone is no error: it has what it
    /// wanted.
    pub async fn flush_out(&self) -> io::Result<()> {
        self.out.flush().await;
        match self.out.failed.lock().unwrap_or_else(PoisonError::into_inner).take() {
            Some(error) if error.kind() != io::ErrorKind::BrokenPipe => Err(error),
            Some(_) | None => Ok(()),
        }
    }

    /// Waits until both have all that was told, for as long as `limit`.
    pub async fn last_words(&self, limit: Duration) {
        // Past the limit there is nobody who reads them.
        let _ = tokio::time::timeout(limit, async { tokio::join!(self.err.flush(), self.out.flush()) }).await;
    }
}

impl Lines {
    fn new<W: Write + 'static>(name: &str, open: fn() -> W) -> Self {
        let (queue, entries) = mpsc::channel(WAITING_LINES);
        let failed = Arc::new(Mutex::new(None));
        let told = failed.clone();
        let started =
            std::thread::Builder::new().name(name.into()).spawn(move || write(entries, open, &told));
        if let Err(error) = started {
            *failed.lock().unwrap_or_else(PoisonError::into_inner) = Some(error);
        }
        Self { queue, failed }
    }

    async fn flush(&self) {
        let (done, written) = oneshot::channel();
        if self.queue.send(Entry::Flush(done)).await.is_ok() {
            // The thread has ended where it does not answer: nothing more is written.
            let _ = written.await;
        }
    }
}

/// Writes until nobody tells anything any more. What comes after a failure is dropped.
fn write<W: Write>(mut entries: mpsc::Receiver<Entry>, open: fn() -> W, failed: &Mutex<Option<io::Error>>) {
    let mut is_broken = false;
    while let Some(entry) = entries.blocking_recv() {
        match entry {
            Entry::Line(_) if is_broken => {}
            Entry::Line(mut line) => {
                line.push('\n');
                let mut to = open();
                if let Err(error) = to.write_all(line.as_bytes()).and_then(|()| to.flush()) {
                    is_broken = true;
                    *failed.lock().unwrap_or_else(PoisonError::into_inner) = Some(error);
                }
            }
            Entry::Flush(done) => {
                let _ = done.send(());
            }
        }
    }
}

/// The text with a space in the place of each control character but line ends.
pub fn printable(text: &str) -> String {
    text.chars().map(|c| if c.is_control() && c != '\n' { ' ' } else { c }).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_others_say_moves_no_cursor() {
        assert_eq!(printable("a\u{1b}[2Jb\r\u{9b}1m\tc\nd"), "a [2Jb  1m c\nd");
    }
}
