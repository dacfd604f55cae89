//! `rbee-keeper job`: jobs that were sent are listed, looked at, followed and cancelled.

use std::{cell::Cell, path::Path};

use super::{
    KeeperError,
    args::JobCommand,
    client::Queen,
    finish,
    follow::Follower,
    output::{Plan, Wish},
    report::Reporter,
};
use crate::contract::{Event, EventKind, JobId, JobStatus, JobSummary, JobView};

/// The most jobs that queen gives at one time.
const PAGE: u32 = 200;

/// Does what was asked for.
///
/// # Errors
/// Queen's refusals, and how a job ended that was followed.
pub async fn run(queen: &Queen, command: &JobCommand, reporter: &Reporter) -> Result<(), KeeperError> {
    match command {
        JobCommand::List { limit } => list(queen, *limit, reporter).await,
        JobCommand::Show { job } => {
            let view = queen.job(job).await?;
            match reporter.is_json() {
                true => reporter.json(&view).await,
                false => reporter.line(shown(&view)).await,
            }
            Ok(())
        }
        JobCommand::Watch { job, output } => watch(queen, job, output.as_deref(), reporter).await,
        JobCommand::Cancel { jobs } => {
            let mut failed = None;
            for job in jobs {
                match queen.cancel(job).await {
                    Ok(()) => reporter.did(job, "cancelled").await,
                    Err(error @ KeeperError::Refused { .. }) => {
                        if let Some(before) = failed.replace(error) {
                            reporter.failure(&before);
                        }
                    }
                    Err(error) => return Err(error),
                }
            }
            failed.map_or(Ok(()), Err)
        }
    }
}

async fn list(queen: &Queen, limit: u32, reporter: &Reporter) -> Result<(), KeeperError> {
    let (mut rows, mut before) = (vec![], None::<String>);
    while rows.len() < limit as usize {
        let left = limit - u32::try_from(rows.len()).unwrap_or(limit);
        let page = queen.jobs(left.min(PAGE), before.as_deref()).await?;
        let is_empty = page.jobs.is_empty();
        rows.extend(page.jobs);
        before = page.next;
        if is_empty || before.is_none() {
            break;
        }
    }
    rows.truncate(limit as usize);
    if reporter.is_json() {
        for row in &rows {
            reporter.json(row).await;
        }
    } else if rows.is_empty() {
        reporter.note("there are no jobs");
    } else {
        let rows: Vec<_> = rows.iter().map(cells).collect();
        reporter.table(["SENT", "JOB", "STATUS", "DOES", "MODEL", "PROMPT"], &rows).await;
    }
    Ok(())
}

/// Follows a job. Whoever stops watching stops nothing else.
async fn watch(
    queen: &Queen,
    job: &JobId,
    output: Option<&Path>,
    reporter: &Reporter,
) -> Result<(), KeeperError> {
    let started = Cell::new(false);
    let end = Follower::new(queen, job, reporter, None, &started).until_the_end().await?;
    let plan = match (&end.kind, output) {
        (EventKind::Complete(complete), Some(output)) => {
            let pictures = u32::try_from(complete.images.len()).unwrap_or(u32::MAX);
            let format = complete.images.first().map(|image| image.format);
            Some(Plan::new(Wish { output: Some(output), format, pictures, json: reporter.is_json() }, job)?)
        }
        _ => None,
    };
    finish(queen, job, &end, plan, reporter).await
}

/// Where a job is, in words.
fn shown(JobView { job_id, status, event }: &JobView) -> String {
    let status = status_name(*status);
    let Some(Event { worker_id, attempt, kind, .. }) = event else { return format!("{job_id} {status}") };
    let how = match kind {
        EventKind::Accepted { model, seed, .. } => format!(" by {worker_id} with {model}, seed {seed}"),
        EventKind::Progress { step, total, .. } | EventKind::Preview { step, total, .. } => {
            format!(" on {worker_id}: step {step}/{total}")
        }
        EventKind::Complete(complete) => {
            let number = complete.images.len();
            let pictures = if number == 1 { "one picture".into() } else { format!("{number} pictures") };
            format!(
                " by {worker_id} with {}: {pictures}; `rbee-keeper job watch {job_id} -o FILE` fetches it",
                complete.model
            )
        }
        EventKind::Error { code, message, .. } => format!(" on {worker_id} ({code}): {message}"),
        EventKind::Cancelled { step } => format!(" after {step} steps"),
    };
    let attempts = if *attempt > 1 { format!(", attempt {attempt}") } else { String::new() };
    format!("{job_id} {status}{how}{attempts}")
}

fn status_name(status: JobStatus) -> &'static str {
    match status {
        JobStatus::Queued => "queued",
        JobStatus::Running => "running",
        JobStatus::Completed => "completed",
        JobStatus::Failed => "failed",
        JobStatus::Cancelled => "cancelled",
    }
}

fn cells(job: &JobSummary) -> [String; 6] {
    let sent = std::time::UNIX_EPOCH.checked_add(std::time::Duration::from_millis(job.created_ms));
    let sent = sent.map(|at| humantime::format_rfc3339_seconds(at).to_string());
    let does = job.operation.as_deref().map(|name| name.strip_prefix("image_").unwrap_or(name).to_owned());
    [
        sent.unwrap_or_default(),
        job.job_id.to_string(),
        status_name(job.status).to_owned(),
        does.unwrap_or_default(),
        job.model.clone().unwrap_or_default(),
        job.prompt.clone().unwrap_or_default(),
    ]
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::contract::ErrorCode;

    #[test]
    fn a_job_is_told_on_a_line() {
        let view = |status, kind: Option<EventKind>| JobView {
            job_id: JobId::new("j").unwrap(),
            status,
            event: kind.map(|kind| Event {
                job_id: JobId::new("j").unwrap(),
                worker_id: crate::contract::WorkerId::new("w").unwrap(),
                attempt: 2,
                seq: 1,
                kind,
            }),
        };
        assert_eq!(shown(&view(JobStatus::Queued, None)), "j queued");
        let progress = EventKind::Progress { step: 3, total: 20, percent: 15.0, eta_ms: 9 };
        assert_eq!(shown(&view(JobStatus::Running, Some(progress))), "j running on w: step 3/20, attempt 2");
        let failed = EventKind::error(ErrorCode::Storage, "full");
        assert_eq!(shown(&view(JobStatus::Failed, Some(failed))), "j failed on w (storage): full, attempt 2");
    }

    #[test]
    fn a_row_says_when_a_job_was_sent() {
        let row = r#"{"job_id":"j","status":"completed","operation":"image_inpaint","model":null,
            "created_ms":1795801906123,"prompt":"a cat","later":1}"#;
        let row: JobSummary = serde_json::from_str(row).unwrap();
        assert_eq!(cells(&row), ["2026-11-27T17:51:46Z", "j", "completed", "inpaint", "", "a cat"]);
    }
}
