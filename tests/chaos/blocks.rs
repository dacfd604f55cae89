//! The files that nats-server keeps a stream in, and a cut of the newest one: what a power cut may do to it.
//!
//! A block is records without anything between them: length, sequence, time, length of the subject, subject, what the
//! message has, checksum. The server writes a record before it answers, and has it brought to the disk a minute or two
//! later: whatever was answered in between may be gone after a power cut.

use std::{
    fs::{self, OpenOptions},
    path::{Path, PathBuf},
};

/// Length, sequence, time and the length of the subject.
const HEADER: usize = 4 + 8 + 8 + 2;
/// Set in the length of a record whose message has headers.
const HAS_HEADERS: u32 = 1 << 31;
/// Set in the sequence of a record that was erased.
const ERASED: u64 = 1 << 63;

/// A stream that is cut.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Cut {
    Jobs,
    Events,
}

impl Cut {
    pub fn name(self) -> &'static str {
        match self {
            Self::Jobs => "JOBS",
            Self::Events => "EVENTS",
        }
    }
}

/// A record of a block.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Record {
    pub sequence: u64,
    pub subject: String,
    /// Where it ends in the file.
    end: usize,
}

/// Where the server keeps the blocks of a stream.
pub fn folder_of(server: &Path, stream: &str) -> PathBuf {
    stream_of(server, stream).join("msgs")
}

/// The file with what the server knows of a consumer: what was delivered, and what it waits for.
pub fn state_of(server: &Path, stream: &str, consumer: &str) -> PathBuf {
    stream_of(server, stream).join("obs").join(consumer).join("o.dat")
}

fn stream_of(server: &Path, stream: &str) -> PathBuf {
    server.join("jetstream/$G/streams").join(stream)
}

/// Takes the last `bytes` from the newest block in a folder, at most all that it has; the records that are not whole any
/// more. The server must not run.
pub fn cut(folder: &Path, bytes: u64) -> Vec<Record> {
    let Some(path) = newest(folder) else { return vec![] };
    let content = fs::read(&path).expect("a block");
    let left = content.len().saturating_sub(usize::try_from(bytes).expect("a few bytes"));
    let mut all = records(&content);
    all.retain(|record| record.end > left);
    let file = OpenOptions::new().write(true).open(&path).expect("a block");
    file.set_len(left as u64).expect("a shorter file");
    all
}

/// Takes the last `number` records from the newest block in a folder, and no byte more. The server must not run.
pub fn cut_records(folder: &Path, number: usize) -> Vec<Record> {
    let content = fs::read(newest(folder).expect("a block")).expect("a block");
    let all = records(&content);
    let left = all.len().checked_sub(number + 1).map_or(0, |last| all[last].end);
    cut(folder, (content.len() - left) as u64)
}

/// The block of the highest number.
fn newest(folder: &Path) -> Option<PathBuf> {
    let blocks = fs::read_dir(folder).ok()?.filter_map(|entry| {
        let path = entry.ok()?.path();
        let number: u64 = path.file_name()?.to_str()?.strip_suffix(".blk")?.parse().ok()?;
        Some((number, path))
    });
    Some(blocks.max()?.1)
}

/// The whole records of a block, from its beginning.
pub fn records(block: &[u8]) -> Vec<Record> {
    let (mut found, mut at) = (vec![], 0);
    while let Some(record) = record(block, at) {
        at = record.end;
        found.push(record);
    }
    found
}

fn record(block: &[u8], at: usize) -> Option<Record> {
    let header = block.get(at..at + HEADER)?;
    let length = u32::from_le_bytes(header[0..4].try_into().ok()?) & !HAS_HEADERS;
    let sequence = u64::from_le_bytes(header[4..12].try_into().ok()?) & !ERASED;
    let subject = usize::from(u16::from_le_bytes(header[20..22].try_into().ok()?));
    let end = at + usize::try_from(length).ok()?;
    let whole = block.get(at..end)?;
    let subject = String::from_utf8(whole.get(HEADER..HEADER + subject)?.to_vec()).ok()?;
    Some(Record { sequence, subject, end })
}

/// What was cut is gone when the server is started again, the rest is there, and numbers are given out once more.
#[tokio::test]
async fn a_server_comes_back_without_what_was_cut() {
    use super::{random::Random, supervised::Supervised, world};
    use async_nats::jetstream::{self, stream::Config};

    let folder = tempfile::TempDir::new().unwrap();
    let port = super::support::process::free_port();
    let server = world::start_nats(port, folder.path(), folder.path(), Random::new(1));
    let client = async {
        let options = async_nats::ConnectOptions::new().retry_on_initial_connect();
        options.connect(format!("nats://127.0.0.1:{port}")).await.unwrap()
    };
    let context = jetstream::new(client.await);
    let config = Config { name: "s".into(), subjects: vec!["s.*".into()], ..Config::default() };
    let stream = loop {
        // It may still be at its start.
        match context.create_stream(config.clone()).await {
            Ok(stream) => break stream,
            Err(_) => tokio::time::sleep(std::time::Duration::from_millis(50)).await,
        }
    };
    for number in 1..=20 {
        let mut headers = async_nats::HeaderMap::new();
        headers.insert("Some", "header");
        let sent = context.publish_with_headers(format!("s.{number}"), headers, "body".into()).await;
        sent.unwrap().await.unwrap();
    }
    let (taken, known) = (std::sync::Arc::new(std::sync::Mutex::new(None)), server.exits().len());
    let (noted, data) = (taken.clone(), folder_of(&folder.path().join("jetstream"), "s"));
    assert!(server.kill_and(move || {
        let whole = records(&fs::read(newest(&data).unwrap()).unwrap());
        // Into the last but one.
        let last = whole[19].end - whole[18].end;
        *noted.lock().unwrap() = Some((whole, cut(&data, last as u64 + 1)));
    }));
    server.exit_after(known).await;
    let info = loop {
        match stream.get_info().await {
            Ok(info) => break info,
            Err(_) => tokio::time::sleep(std::time::Duration::from_millis(50)).await,
        }
    };
    let (whole, taken) = taken.lock().unwrap().take().unwrap();
    let named = |record: &Record| (record.sequence, record.subject.clone());
    let expected: Vec<_> = (1..=20).map(|number| (number, format!("s.{number}"))).collect();
    assert_eq!(whole.iter().map(named).collect::<Vec<_>>(), expected);
    assert_eq!(taken.iter().map(named).collect::<Vec<_>>(), expected[18..]);
    assert_eq!((info.state.messages, info.state.last_sequence), (18, 18));
    assert_eq!(context.publish("s.new", "".into()).await.unwrap().await.unwrap().sequence, 19);
    let _: &Supervised = &server;
}
