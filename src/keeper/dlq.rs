//! `rbee-keeper dlq`: dead letters are listed, sent again, dropped.

use std::collections::BTreeSet;

use super::{
    KeeperError,
    args::{DlqCommand, Letters},
    client::Queen,
    report::Reporter,
};
use crate::contract::JobId;

/// How many letters `--all` asks for at one time; the most that queen gives.
const PAGE: u32 = 1000;

/// What is done to a letter.
#[derive(Clone, Copy)]
enum Deed {
    Retry,
    Drop,
}

/// Does what was asked for.
///
/// # Errors
/// The first letter that is not there, or that queen did not do it to.
pub async fn run(queen: &Queen, command: &DlqCommand, reporter: &Reporter) -> Result<(), KeeperError> {
    match command {
        DlqCommand::List { limit } => {
            reporter.dead_letters(&queen.dead_letters(*limit).await?.dead_letters).await;
            Ok(())
        }
        DlqCommand::Retry(letters) => each(queen, letters, Deed::Retry, reporter).await,
        DlqCommand::Drop(letters) => each(queen, letters, Deed::Drop, reporter).await,
    }
}

async fn each(queen: &Queen, letters: &Letters, deed: Deed, reporter: &Reporter) -> Result<(), KeeperError> {
    if let Some(job) = &letters.job {
        return one(queen, job, deed, reporter).await;
    }
    let mut seen = BTreeSet::new();
    let mut newest = None;
    let mut failed = None;
    loop {
        let mut page = queen.dead_letters(PAGE).await?.dead_letters;
        // A job that is sent again may die again: that letter is for another day.
        let until = *newest.get_or_insert(page.last().map_or(0, |letter| letter.sequence));
        page.retain(|letter| letter.sequence <= until && seen.insert(letter.job_id.clone()));
        if page.is_empty() {
            return failed.map_or(Ok(()), Err);
        }
        for letter in page {
            match one(queen, &letter.job_id, deed, reporter).await {
                Ok(()) => {}
                // What is wrong with one letter holds up no other.
                Err(error @ KeeperError::Refused { .. }) => {
                    reporter.note(&format!("{}: {error}", letter.job_id));
                    failed.get_or_insert(error);
                }
                Err(error) => return Err(error),
            }
        }
    }
}

async fn one(queen: &Queen, job: &JobId, deed: Deed, reporter: &Reporter) -> Result<(), KeeperError> {
    match deed {
        Deed::Retry => queen.retry_dead_letter(job).await?,
        Deed::Drop => queen.drop_dead_letter(job).await?,
    }
    reporter.did(job, deed.name()).await;
    Ok(())
}

impl Deed {
    fn name(self) -> &'static str {
        match self {
            Self::Retry => "sent again",
            Self::Drop => "dropped",
        }
    }
}
