//! A power cut takes what the server had not brought to its disk. What stands in for one is a copy of its folder, taken
//! while it runs and is written to, with which it is started again: files are from different moments, and the newest
//! may end in the middle of a message.

use std::{
    fs::{self, OpenOptions},
    path::{Path, PathBuf},
    process::Command,
    time::Duration,
};

use tempfile::TempDir;

use super::crowd::Crowd;
use crate::support::nats::NatsServer;

/// Jobs that were accepted when the power goes.
const JOBS: usize = 40;

/// What more the cut breaks.
enum Broken {
    Nothing,
    /// The newest file of messages of each stream ends early.
    Tails,
    /// What a stream is cannot be read.
    Descriptions,
}

/// Files below a folder whose name ends so.
fn files(folder: &Path, end: &str) -> Vec<PathBuf> {
    let mut found = vec![];
    for entry in fs::read_dir(folder).expect("a folder").flatten() {
        match entry.path() {
            path if path.is_dir() => found.extend(files(&path, end)),
            path if path.to_string_lossy().ends_with(end) => found.push(path),
            _ => {}
        }
    }
    found
}

fn truncate(file: &Path, keep: impl Fn(u64) -> u64) {
    let file = OpenOptions::new().write(true).open(file).expect("a file");
    let bytes = file.metadata().expect("its size").len();
    file.set_len(keep(bytes)).expect("it is cut");
}

/// Breaks a copy. Says how many files it broke.
fn break_it(copy: &Path, broken: &Broken) -> usize {
    match broken {
        Broken::Nothing => 0,
        Broken::Tails => {
            let streams: Vec<_> =
                files(copy, ".blk").iter().map(|file| file.parent().unwrap().to_owned()).collect();
            let newest = |folder: &PathBuf| {
                let number = |file: &PathBuf| file.file_stem()?.to_str()?.parse::<u64>().ok();
                files(folder, ".blk").into_iter().max_by_key(number).expect("a file")
            };
            let mut cut: Vec<_> = streams.iter().map(newest).collect();
            cut.sort();
            cut.dedup();
            // An odd number, so that it is not where a message ends.
            cut.iter().for_each(|file| truncate(file, |bytes| bytes - bytes.min((bytes / 4) | 1)));
            cut.len()
        }
        Broken::Descriptions => {
            let all: Vec<_> =
                files(copy, "meta.inf").into_iter().filter(|file| !is_of_a_consumer(file)).collect();
            all.iter().for_each(|file| truncate(file, |_| 0));
            all.len()
        }
    }
}

fn is_of_a_consumer(file: &Path) -> bool {
    file.components().any(|part| part.as_os_str() == "obs")
}

async fn comes_back_from_a_cut(broken: Broken) {
    let mut server = NatsServer::start();
    let mut crowd = Crowd::start(&server.url(), &[]).await;
    while crowd.accepted.len() < JOBS {
        crowd.send().await;
    }
    while crowd.done().await < JOBS / 4 {
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    // Files come and go under the hands of whoever copies: what is not there any more was not on the disk.
    let folder = TempDir::new().expect("a folder");
    let copy = folder.path().join("js");
    let copied = Command::new("cp").args(["-r", "--"]).arg(server.data()).arg(&copy).output().expect("cp");
    assert!(copy.is_dir(), "{}", String::from_utf8_lossy(&copied.stderr));
    let files = break_it(&copy, &broken);
    assert!(files > 0 || matches!(broken, Broken::Nothing));
    server.restart_with(&copy);

    // Nobody else is told of a job that is lost: whoever waits for one sends it again.
    crowd.send().await;
    tokio::time::sleep(Duration::from_secs(3)).await;
    let lost = crowd.lost().await;
    eprintln!("{} of {JOBS} jobs were lost with {files} broken files", lost.len());
    crowd.send_again(&lost).await;
    crowd.all_are_drawn().await;
    crowd.each_ended_once().await;
}

#[tokio::test]
async fn after_a_power_cut_every_job_ends_once_or_is_sent_again() {
    comes_back_from_a_cut(Broken::Nothing).await;
}

#[tokio::test]
async fn after_a_power_cut_that_took_the_newest_messages_every_job_ends_once_or_is_sent_again() {
    comes_back_from_a_cut(Broken::Tails).await;
}

#[tokio::test]
async fn streams_that_cannot_be_read_after_a_power_cut_are_made_again() {
    comes_back_from_a_cut(Broken::Descriptions).await;
}
