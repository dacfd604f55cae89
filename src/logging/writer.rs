//! A bounded queue of log lines, and one thread that writes it. Whoever logs never waits, and never hears of an error: a log
//! may be lost, nothing else. What is lost is counted, and said as soon as lines can be written again.
//!
//! Nothing is known here of formats and filters.

use std::{
    collections::VecDeque,
    io::{self, ErrorKind, Write},
    sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use tracing_subscriber::fmt::MakeWriter;

/// Bytes of lines that wait to be written; beyond them lines are lost.
const MAX_WAITING: usize = 1 << 20;
/// The pause before a descriptor is tried again that does not wait for its reader by itself.
const AGAIN: Duration = Duration::from_millis(10);

/// Takes lines. Cheap to clone.
#[derive(Clone)]
pub struct LogWriter {
    shared: Arc<Shared>,
}

#[derive(Default)]
struct Shared {
    queue: Mutex<Queue>,
    /// There is a line.
    come: Condvar,
    /// There is none any more.
    gone: Condvar,
}

#[derive(Default)]
struct Queue {
    lines: VecDeque<Vec<u8>>,
    /// Of `lines`.
    bytes: usize,
    /// A line is neither in `lines` nor written.
    writing: bool,
    /// Lines since this was last said.
    lost: u64,
}

impl LogWriter {
    /// Starts the thread that writes to `out`.
    pub fn start(out: impl Write + Send + 'static) -> Self {
        let shared = Arc::new(Shared::default());
        let writer = shared.clone();
        let thread = std::thread::Builder::new().name("log".into()).spawn(move || writer.write(out));
        if let Err(error) = thread {
            // There is nobody to tell where this fails too.
            let _ = writeln!(io::stderr(), "there is no log: its thread cannot be started: {error}");
        }
        Self { shared }
    }

    /// Waits until every line is written, no longer than this; whether that is so.
    pub fn flush(&self, limit: Duration) -> bool {
        let queue = self.shared.lock();
        let waiting = |queue: &mut Queue| queue.writing || !queue.lines.is_empty();
        match self.shared.gone.wait_timeout_while(queue, limit, waiting) {
            Ok((_, waited)) => !waited.timed_out(),
            Err(_) => false,
        }
    }
}

impl Write for &LogWriter {
    /// Takes all of it: a line.
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        self.shared.push(line);
        Ok(line.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl<'a> MakeWriter<'a> for LogWriter {
    type Writer = &'a LogWriter;

    fn make_writer(&'a self) -> Self::Writer {
        self
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, Queue> {
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn push(&self, line: &[u8]) {
        let mut queue = self.lock();
        if queue.bytes + line.len() > MAX_WAITING {
            queue.lost += 1;
            return;
        }
        queue.bytes += line.len();
        queue.lines.push_back(line.to_vec());
        self.come.notify_one();
    }

    /// Writes lines for as long as the process lives.
    fn write(&self, mut out: impl Write) {
        loop {
            let line = self.next();
            let written = write_whole(&mut out, &line);
            let mut queue = self.lock();
            if written.is_err() {
                queue.lost += 1;
            } else if queue.lost > 0 && queue.lines.is_empty() {
                // Now there is room for it.
                let lines = std::mem::take(&mut queue.lost);
                drop(queue);
                tracing::warn!(
                    lines,
                    "lines of this log are lost: nobody read it, or it could not be written"
                );
                queue = self.lock();
            }
            queue.writing = false;
            self.gone.notify_all();
        }
    }

    fn next(&self) -> Vec<u8> {
        let mut queue = self.lock();
        loop {
            if let Some(line) = queue.lines.pop_front() {
                queue.bytes -= line.len();
                queue.writing = true;
                return line;
            }
            queue = self.come.wait(queue).unwrap_or_else(PoisonError::into_inner);
        }
    }
}

/// As `write_all`, also for a descriptor that whoever shares it has made one that does not wait.
fn write_whole(out: &mut impl Write, mut bytes: &[u8]) -> io::Result<()> {
    while !bytes.is_empty() {
        match out.write(bytes) {
            Ok(0) => return Err(ErrorKind::WriteZero.into()),
            Ok(written) => bytes = &bytes[written..],
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            Err(error) if error.kind() == ErrorKind::WouldBlock => std::thread::sleep(AGAIN),
            Err(error) => return Err(error),
        }
    }
    out.flush()
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc;

    use super::*;

    const SOON: Duration = Duration::from_secs(10);

    /// Writes what it is allowed to, a permit a call.
    struct Gate {
        open: mpsc::Receiver<io::Result<()>>,
        written: Arc<Mutex<String>>,
    }

    impl Write for Gate {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            // Without a permit it waits, as a pipe does that is full.
            self.open.recv().unwrap_or(Err(ErrorKind::BrokenPipe.into()))?;
            // Half of it: the rest is for the next call.
            let part = &bytes[..bytes.len().div_ceil(2)];
            self.written.lock().unwrap().push_str(std::str::from_utf8(part).unwrap());
            Ok(part.len())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    fn gate() -> (LogWriter, mpsc::Sender<io::Result<()>>, Arc<Mutex<String>>) {
        let (permits, open) = mpsc::channel();
        let written = Arc::new(Mutex::new(String::new()));
        (LogWriter::start(Gate { open, written: written.clone() }), permits, written)
    }

    fn log(writer: &LogWriter, line: &str) {
        let mut writer = writer;
        writer.write_all(line.as_bytes()).unwrap();
    }

    #[test]
    fn a_log_that_nobody_reads_holds_up_nobody_and_loses_what_is_too_much() {
        let (writer, permits, written) = gate();
        let line = format!("{}\n", "x".repeat(1023));
        for _ in 0..2000 {
            log(&writer, &line);
        }
        assert!(!writer.flush(Duration::from_millis(20)), "nobody reads");
        let (waiting, lost) = {
            let queue = writer.shared.lock();
            (queue.bytes, queue.lost)
        };
        assert!(waiting <= MAX_WAITING, "{waiting}");
        assert!((970..=976).contains(&lost), "{lost}: 1 MiB waits, and the line that is being written");
        for _ in 0..100_000 {
            permits.send(Ok(())).unwrap();
        }
        assert!(writer.flush(SOON));
        assert_eq!(written.lock().unwrap().len() as u64, (2000 - lost) * 1024);
        assert_eq!(writer.shared.lock().lost, 0, "it was said");
    }

    #[test]
    fn a_line_that_cannot_be_written_is_counted_and_the_next_one_is_tried() {
        let (writer, permits, written) = gate();
        let kinds = [ErrorKind::StorageFull, ErrorKind::BrokenPipe];
        for kind in kinds {
            permits.send(Err(kind.into())).unwrap();
            log(&writer, "lost\n");
        }
        assert!(writer.flush(SOON));
        assert_eq!(writer.shared.lock().lost, 2);
        // Interrupted, and for a while not ready: neither loses anything.
        for kind in [ErrorKind::Interrupted, ErrorKind::WouldBlock] {
            permits.send(Err(kind.into())).unwrap();
        }
        for _ in 0..10 {
            permits.send(Ok(())).unwrap();
        }
        log(&writer, "kept\n");
        assert!(writer.flush(SOON));
        assert_eq!(*written.lock().unwrap(), "kept\n");
        assert_eq!(writer.shared.lock().lost, 0);
    }

    #[test]
    fn lines_are_written_in_their_order() {
        let (writer, permits, written) = gate();
        for number in 0..20 {
            log(&writer, &format!("{number}\n"));
            for _ in 0..4 {
                permits.send(Ok(())).unwrap();
            }
        }
        assert!(writer.flush(SOON));
        let expected: String = (0..20).map(|number| format!("{number}\n")).collect();
        assert_eq!(*written.lock().unwrap(), expected);
    }
}
