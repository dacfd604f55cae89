//! What is said of a job that no worker has begun: who could draw it, as far as queen knows.

use std::{cell::Cell, collections::BTreeSet, convert::Infallible, time::Duration};

use super::{client::Queen, report::Reporter, request::Needs};
use crate::contract::{WorkerInfo, WorkerStatus};

/// A wait that is worth no word.
const FIRST_LOOK: Duration = Duration::from_secs(3);
/// How often it is looked again. What was said is not said again.
const LOOK_AGAIN: Duration = Duration::from_secs(10);

/// Says why a job waits, until `started` is set. Never ends.
pub async fn watch(queen: &Queen, needs: &Needs, reporter: &Reporter, started: &Cell<bool>) -> Infallible {
    let mut said = String::new();
    let mut pause = FIRST_LOOK;
    loop {
        tokio::time::sleep(pause).await;
        pause = LOOK_AGAIN;
        if started.get() {
            continue;
        }
        // Queen may be busy, or a worker that knows of no other: there is nothing to say then.
        let (Ok(workers), Ok(health)) = (queen.workers().await, queen.health().await) else { continue };
        if started.get() {
            continue;
        }
        let why = why(needs, &workers.workers);
        let until = match health.durable {
            true => "it stays in the queue until a worker takes it (--timeout limits the wait)",
            false => "queen gives it up after its --queue-timeout",
        };
        let text = format!("the job waits: {why}; {until}");
        if text != said {
            reporter.waiting(&text);
            said = text;
        }
    }
}

/// Why nobody has it yet.
fn why(needs: &Needs, workers: &[WorkerInfo]) -> String {
    let up: Vec<_> = workers.iter().filter(|worker| worker.status.takes_jobs()).collect();
    if up.is_empty() {
        let is_drained = |worker: &WorkerInfo| worker.status == WorkerStatus::Draining;
        return match workers.iter().any(is_drained) {
            true => "every worker that is up is drained (`rbee-keeper worker resume`)".into(),
            false => "no worker is up".into(),
        };
    }
    let is_named = |worker: &WorkerInfo| {
        needs.worker_id.as_ref().is_none_or(|id| worker.id.as_str() == id)
            && needs
                .hive_id
                .as_ref()
                .is_none_or(|hive| worker.hive_id.as_ref().map(|of| of.as_str()) == Some(hive.as_str()))
    };
    let named: Vec<_> = up.into_iter().filter(|worker| is_named(worker)).collect();
    if named.is_empty() {
        return match (&needs.worker_id, &needs.hive_id) {
            (Some(id), _) => format!("worker `{id}` is not up"),
            (None, hive) => format!("no worker of hive `{}` is up", hive.as_deref().unwrap_or_default()),
        };
    }
    let capable: Vec<_> =
        named.into_iter().filter(|worker| worker.capabilities.contains(&needs.capability)).collect();
    if capable.is_empty() {
        return format!("no worker that is up does `{}`", needs.capability.operation());
    }
    let serving: Vec<_> = match &needs.model {
        None => capable,
        Some(model) => {
            let there: BTreeSet<&str> =
                capable.iter().flat_map(|worker| &worker.models).map(String::as_str).collect();
            let serving: Vec<_> =
                capable.into_iter().filter(|worker| worker.models.contains(model)).collect();
            if serving.is_empty() {
                let there = there.into_iter().collect::<Vec<_>>().join(", ");
                return format!("no worker that is up has `{model}`; there are: {there}");
            }
            serving
        }
    };
    let count = serving.len();
    let workers = if count == 1 {
        "the worker that can draw it".into()
    } else {
        format!("all {count} workers that can draw it")
    };
    match serving.iter().any(|worker| worker.free_slots > 0) {
        false => format!("{workers} {} busy", if count == 1 { "is" } else { "are" }),
        true => "a worker that can draw it has a free slot, and has not taken it yet".into(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::contract::Capability;

    fn needs(model: Option<&str>) -> Needs {
        Needs {
            capability: Capability::Generate,
            model: model.map(str::to_owned),
            worker_id: None,
            hive_id: None,
        }
    }

    #[test]
    fn who_could_draw_a_job_is_told() {
        let ready = |id: &str, free_slots| WorkerInfo { free_slots, ..WorkerInfo::ready(id, &["m", "n"]) };
        let gone = WorkerInfo { status: WorkerStatus::ShuttingDown, ..ready("g", 1) };
        assert_eq!(why(&needs(None), &[]), "no worker is up");
        assert_eq!(why(&needs(None), &[gone]), "no worker is up");
        let drained = WorkerInfo { status: WorkerStatus::Draining, ..ready("d", 0) };
        assert!(why(&needs(None), &[drained]).starts_with("every worker that is up is drained"));
        assert_eq!(why(&needs(Some("x")), &[ready("a", 1)]), "no worker that is up has `x`; there are: m, n");
        assert_eq!(why(&needs(Some("m")), &[ready("a", 0)]), "the worker that can draw it is busy");
        let both = [ready("a", 0), ready("b", 0)];
        assert_eq!(why(&needs(None), &both), "all 2 workers that can draw it are busy");
        let named = |id: &str| Needs { worker_id: Some(id.into()), ..needs(None) };
        assert_eq!(why(&named("z"), &both), "worker `z` is not up");
        assert_eq!(why(&named("b"), &both), "the worker that can draw it is busy");
        let hive = Needs { hive_id: Some("h".into()), ..needs(None) };
        assert_eq!(why(&hive, &both), "no worker of hive `h` is up");
        let cannot = WorkerInfo { capabilities: vec![Capability::Inpaint], ..ready("a", 1) };
        assert_eq!(why(&needs(None), &[cannot]), "no worker that is up does `image_generation`");
    }
}
