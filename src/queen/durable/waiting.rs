//! Where a durable job stands in line while no worker has it, and why nobody takes it.

use std::{
    collections::HashMap,
    time::{Duration, Instant},
};

use futures::stream::{self, BoxStream, StreamExt};

use super::{Durable, Log};
use crate::{
    bus::Streams,
    contract::{Capability, JobId, Operation, Queued, WorkerInfo},
    queen::Queen,
};

/// How often it is looked whether something is different.
const LOOK_EVERY: Duration = Duration::from_secs(2);
/// How long what the server said of a line is believed. All who wait in it are told by one answer.
const BELIEVED_FOR: Duration = Duration::from_secs(1);
/// Lines of which that is remembered.
const MAX_LINES: usize = 4096;

/// How far jobs were given out: by the name of a line's consumer.
pub(super) type GivenOut = HashMap<String, (Instant, Option<u64>)>;

/// A job in line.
struct InLine {
    queen: Queen,
    id: JobId,
    capability: Capability,
    /// `None`: any that a worker has.
    model: Option<String>,
    /// Its number in the stream of jobs. `None`: it is in no line.
    sequence: Option<u64>,
    /// As it was last told.
    told: Option<Queued>,
}

impl Queen {
    /// Where a job stands that no worker has begun; `None`: one has, or what it asks for cannot be seen.
    pub(in crate::queen) async fn in_line(
        &self,
        durable: &Durable,
        log: &Log,
    ) -> Option<BoxStream<'static, Queued>> {
        let ticket = log.ticket().filter(|_| log.last.is_none())?;
        let (capability, model) = match &ticket.about {
            Some(about) => (about.capability, about.model.clone()),
            // An earlier version wrote it.
            None => {
                let body = durable.streams.job_at(ticket.sequence, &log.id).await.ok()??;
                let operation = Operation::parse(None, &body).ok()?;
                (operation.capability(), operation.model().map(str::to_owned))
            }
        };
        Some(self.waits(log.id.clone(), capability, model, Some(ticket.sequence)))
    }

    /// Where a job stands, now and when it is different. It does not end by itself.
    pub(in crate::queen) fn waits(
        &self,
        id: JobId,
        capability: Capability,
        model: Option<String>,
        sequence: Option<u64>,
    ) -> BoxStream<'static, Queued> {
        let job = InLine { queen: self.clone(), id, capability, model, sequence, told: None };
        stream::unfold(job, |mut job| async move {
            loop {
                let now = job.look().await;
                if job.told.as_ref() != Some(&now) {
                    job.told = Some(now.clone());
                    return Some((now, job));
                }
                tokio::time::sleep(LOOK_EVERY).await;
            }
        })
        .boxed()
    }
}

impl InLine {
    async fn look(&self) -> Queued {
        let (capability, model) = (self.capability, self.model.as_deref());
        let position = match (self.queen.durable(), model, self.sequence) {
            (Some(durable), Some(model), Some(sequence)) => {
                durable.position(capability, model, sequence).await
            }
            _ => None,
        };
        let fleet = &self.queen.shared.fleet;
        let reason = fleet.with_taking(|workers| without_taker(workers, capability, model));
        Queued { job_id: self.id.clone(), position, reason }
    }
}

impl Durable {
    /// How many jobs are before that of number `sequence`, if it can be seen.
    async fn position(&self, capability: Capability, model: &str, sequence: u64) -> Option<u64> {
        let given = self.given_out(capability, model).await?;
        self.register.before(capability, model, sequence, given)
    }

    /// Up to which number the jobs of a model were given out, as the server said a moment ago.
    async fn given_out(&self, capability: Capability, model: &str) -> Option<u64> {
        let name = Streams::consumer_name(capability, model);
        // Who asks while another does is told the same.
        let mut lines = self.lines.lock().await;
        if let Some((at, given)) = lines.get(&name)
            && at.elapsed() < BELIEVED_FOR
        {
            return *given;
        }
        let given = match self.streams.given_out(&name).await {
            Ok(given) => Some(given),
            Err(error) => {
                tracing::debug!(%error, "where jobs stand in line cannot be seen at present");
                None
            }
        };
        if lines.len() >= MAX_LINES {
            lines.clear();
        }
        lines.insert(name, (Instant::now(), given));
        given
    }
}

/// That nobody is there who could take it.
fn without_taker(workers: &[&WorkerInfo], capability: Capability, model: Option<&str>) -> Option<String> {
    let can = |worker: &&WorkerInfo| {
        let has = |model| worker.models.iter().any(|name| name == model);
        worker.capabilities.contains(&capability) && model.is_none_or(has)
    };
    let with_model = model.map_or_else(String::new, |model| format!(" with the model `{model}`"));
    let operation = capability.operation();
    (!workers.iter().any(can)).then(|| format!("no worker that is up does {operation}{with_model}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_job_that_somebody_could_take_waits_without_a_word() {
        let worker = WorkerInfo::ready("w", &["m"]);
        let says = |workers: &[&WorkerInfo], capability| without_taker(workers, capability, Some("m"));
        assert_eq!(says(&[&worker], Capability::Generate), None);
        assert!(says(&[&worker], Capability::Inpaint).unwrap().contains("image_inpaint with the model `m`"));
        assert!(says(&[], Capability::Generate).unwrap().contains("no worker that is up"));
        assert!(without_taker(&[&worker], Capability::Generate, Some("x")).is_some());
        assert_eq!(without_taker(&[&worker], Capability::Generate, None), None);
    }
}
