//! `rbee-keeper worker` and `rbee-keeper model`: who is up, what changes, and what an operator tells workers.

use std::collections::{BTreeMap, BTreeSet};

use serde::Serialize;

use super::{
    KeeperError,
    args::{Model, ModelCommand, WorkerCommand},
    client::Queen,
    report::Reporter,
    sse::SseParser,
};
use crate::contract::{Command, WorkerId, WorkerInfo, WorkerStatus, Workers};

/// A model of the pool.
#[derive(Debug, PartialEq, Serialize)]
struct ModelRow {
    model: String,
    /// Width and height in pixels of a picture whose job names none.
    #[serde(skip_serializing_if = "Option::is_none")]
    native_size: Option<(u32, u32)>,
    workers: Vec<WorkerId>,
    /// Of them, those that have it in memory.
    in_memory: Vec<WorkerId>,
}

/// Does what was asked for with workers.
///
/// # Errors
/// The first worker that did not do it, after all were told.
pub async fn workers(queen: &Queen, command: &WorkerCommand, reporter: &Reporter) -> Result<(), KeeperError> {
    match command {
        WorkerCommand::List => {
            list(&queen.workers().await?.workers, reporter).await;
            Ok(())
        }
        WorkerCommand::Watch => watch(queen, reporter).await,
        WorkerCommand::Drain(to) => tell(queen, &to.workers, &Command::Drain, reporter).await,
        WorkerCommand::Resume(to) => tell(queen, &to.workers, &Command::Resume, reporter).await,
    }
}

/// Does what was asked for with models.
///
/// # Errors
/// No worker that is up has the model, or the first worker that did not do it, after all were told.
pub async fn models(queen: &Queen, command: &ModelCommand, reporter: &Reporter) -> Result<(), KeeperError> {
    match command {
        ModelCommand::List => {
            let rows = model_rows(&queen.workers().await?.workers);
            if reporter.is_json() {
                for row in &rows {
                    reporter.json(row).await;
                }
            } else if rows.is_empty() {
                reporter.note("no worker is up");
            } else {
                let rows: Vec<_> = rows.iter().map(ModelRow::cells).collect();
                reporter.table(["MODEL", "SIZE", "WORKERS", "IN MEMORY"], &rows).await;
            }
            Ok(())
        }
        ModelCommand::Load(Model { model, workers }) => {
            let to = those_with(queen, model, workers).await?;
            tell(queen, &to, &Command::Load { model: model.clone() }, reporter).await
        }
        ModelCommand::Unload(Model { model, workers }) => {
            let to = those_with(queen, model, workers).await?;
            tell(queen, &to, &Command::Unload { model: model.clone() }, reporter).await
        }
    }
}

/// The workers that are named, or all that have the model.
async fn those_with(queen: &Queen, model: &str, named: &[WorkerId]) -> Result<Vec<WorkerId>, KeeperError> {
    if !named.is_empty() {
        return Ok(named.to_vec());
    }
    let up = queen.workers().await?.workers;
    let have: Vec<_> = up.iter().filter(|worker| worker.models.iter().any(|name| name == model)).collect();
    if have.is_empty() {
        let names: BTreeSet<&str> = up.iter().flat_map(|worker| &worker.models).map(String::as_str).collect();
        let there = if names.is_empty() { "none".to_owned() } else { Vec::from_iter(names).join(", ") };
        return Err(KeeperError::NoSuchModel { model: model.to_owned(), there });
    }
    Ok(have.into_iter().map(|worker| worker.id.clone()).collect())
}

async fn tell(
    queen: &Queen,
    workers: &[WorkerId],
    command: &Command,
    reporter: &Reporter,
) -> Result<(), KeeperError> {
    // Each takes its time, and none waits for another.
    let told = workers.iter().map(|worker| async move { (worker, queen.command(worker, command).await) });
    let mut failed = None;
    for (worker, done) in futures::future::join_all(told).await {
        match done {
            Ok(info) if reporter.is_json() => reporter.json(&info).await,
            Ok(info) => reporter.line(format!("{worker} {}", state(&info))).await,
            Err(error) => {
                // The last is told as the error of all.
                if let Some(before) = failed.replace(error) {
                    reporter.failure(&before);
                }
            }
        }
    }
    failed.map_or(Ok(()), Err)
}

async fn list(workers: &[WorkerInfo], reporter: &Reporter) {
    if reporter.is_json() {
        for worker in workers {
            reporter.json(worker).await;
        }
        return;
    }
    if workers.is_empty() {
        return reporter.note("no worker is up");
    }
    let row = |worker: &WorkerInfo| {
        let step = worker.step_ms.map(|ms| format!("{ms:.0} ms")).unwrap_or_default();
        [
            worker.id.to_string(),
            status(worker.status).to_owned(),
            format!("{}/{}", worker.free_slots, worker.slots),
            worker.device.clone(),
            step,
            worker.models.join(", "),
            worker.resident.join(", "),
        ]
    };
    let rows: Vec<_> = workers.iter().map(row).collect();
    reporter.table(["WORKER", "STATUS", "FREE", "DEVICE", "STEP", "MODELS", "IN MEMORY"], &rows).await;
}

/// Tells what changes, until queen is lost for longer than it is looked for.
async fn watch(queen: &Queen, reporter: &Reporter) -> Result<(), KeeperError> {
    let mut again = queen.again();
    let mut known: Option<BTreeMap<WorkerId, String>> = None;
    loop {
        let lost = match listen(queen, reporter, &mut known).await {
            Ok(()) => KeeperError::Protocol("the stream of the fleet broke off".into()),
            Err(error @ (KeeperError::Unreachable { .. } | KeeperError::Foreign { .. })) => error,
            Err(KeeperError::Refused { status, message, after }) if status >= 500 || status == 429 => {
                KeeperError::Refused { status, message, after }
            }
            Err(error) => return Err(error),
        };
        again.wait(lost, |error| reporter.asking_again(error)).await?;
    }
}

/// One connection.
async fn listen(
    queen: &Queen,
    reporter: &Reporter,
    known: &mut Option<BTreeMap<WorkerId, String>>,
) -> Result<(), KeeperError> {
    let mut response = queen.fleet().await?;
    let mut parser = SseParser::default();
    while let Some(chunk) = response.chunk().await.map_err(|error| queen.unreachable(&error))? {
        for message in parser.feed(&chunk).map_err(|error| queen.foreign(error.to_string()))? {
            // What is not of the fleet is for others.
            let Ok(Workers { workers }) = serde_json::from_str(&message.data) else { continue };
            if reporter.is_json() {
                reporter.raw(&message.data).await;
                continue;
            }
            let now: BTreeMap<_, _> =
                workers.iter().map(|worker| (worker.id.clone(), state(worker))).collect();
            for line in changes(known.as_ref(), &now) {
                reporter.line(line).await;
            }
            *known = Some(now);
        }
    }
    Ok(())
}

/// A line for each worker that came, changed or is gone.
fn changes(before: Option<&BTreeMap<WorkerId, String>>, now: &BTreeMap<WorkerId, String>) -> Vec<String> {
    let nobody = BTreeMap::new();
    let is_first = before.is_none();
    let before = before.unwrap_or(&nobody);
    if is_first && now.is_empty() {
        return vec!["no worker is up".into()];
    }
    let changed = now.iter().filter(|(worker, state)| before.get(*worker) != Some(*state));
    let gone = before.keys().filter(|worker| !now.contains_key(*worker));
    changed
        .map(|(worker, state)| format!("{worker} {state}"))
        .chain(gone.map(|worker| format!("{worker} is gone")))
        .collect()
}

/// How a worker is, on a line.
fn state(worker: &WorkerInfo) -> String {
    let memory = match &worker.resident[..] {
        [] => "nothing in memory".to_owned(),
        models => format!("in memory: {}", models.join(", ")),
    };
    format!("{}, {} of {} slots free, {memory}", status(worker.status), worker.free_slots, worker.slots)
}

fn status(status: WorkerStatus) -> &'static str {
    match status {
        WorkerStatus::Ready => "ready",
        WorkerStatus::Busy => "busy",
        WorkerStatus::Draining => "draining",
        WorkerStatus::ShuttingDown => "shutting down",
    }
}

fn model_rows(workers: &[WorkerInfo]) -> Vec<ModelRow> {
    let mut rows: BTreeMap<&str, ModelRow> = BTreeMap::new();
    for worker in workers {
        for model in &worker.models {
            let row = rows.entry(model).or_insert_with(|| ModelRow {
                model: model.clone(),
                native_size: None,
                workers: vec![],
                in_memory: vec![],
            });
            row.native_size = row.native_size.or(worker.native_sizes.get(model).copied());
            row.workers.push(worker.id.clone());
            if worker.resident.contains(model) {
                row.in_memory.push(worker.id.clone());
            }
        }
    }
    rows.into_values().collect()
}

impl ModelRow {
    fn cells(&self) -> [String; 4] {
        let size = self.native_size.map(|(width, height)| format!("{width}x{height}")).unwrap_or_default();
        let names = |ids: &[WorkerId]| ids.iter().map(WorkerId::as_str).collect::<Vec<_>>().join(", ");
        [self.model.clone(), size, names(&self.workers), names(&self.in_memory)]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn worker(id: &str, models: &[&str], resident: &[&str]) -> WorkerInfo {
        let resident = resident.iter().map(|&model| model.to_owned()).collect();
        WorkerInfo { resident, ..WorkerInfo::ready(id, models) }
    }

    #[test]
    fn a_model_is_listed_once_with_who_has_it() {
        let rows = model_rows(&[worker("a", &["m", "n"], &["n"]), worker("b", &["n"], &[])]);
        let cells: Vec<_> = rows.iter().map(ModelRow::cells).collect();
        assert_eq!(cells, [["m", "", "a", ""], ["n", "", "a, b", "a"]]);
    }

    #[test]
    fn who_came_changed_or_went_is_told_and_nobody_else() {
        let fleet = |workers: &[WorkerInfo]| -> BTreeMap<_, _> {
            workers.iter().map(|worker| (worker.id.clone(), state(worker))).collect()
        };
        let (a, b) = (worker("a", &["m"], &["m"]), worker("b", &["m"], &[]));
        assert_eq!(changes(None, &fleet(&[])), ["no worker is up"]);
        let first = fleet(&[a.clone(), b.clone()]);
        assert_eq!(
            changes(None, &first),
            ["a ready, 1 of 1 slots free, in memory: m", "b ready, 1 of 1 slots free, nothing in memory"]
        );
        assert_eq!(changes(Some(&first), &first), [""; 0]);
        let drained = WorkerInfo { status: WorkerStatus::Draining, free_slots: 0, ..a };
        let next = fleet(&[drained]);
        assert_eq!(
            changes(Some(&first), &next),
            ["a draining, 0 of 1 slots free, in memory: m", "b is gone"]
        );
    }
}
