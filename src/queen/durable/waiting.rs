//! Why a durable job waits, for whoever reads its stream: no worker that is up could take it.

use super::{Durable, Log};
use crate::{
    contract::{Capability, Operation, WorkerInfo},
    http::Waiting,
    queen::Queen,
};

impl Queen {
    /// What there is to say of a job that no worker has begun; `None`: nothing, or it cannot be seen.
    pub(in crate::queen) async fn waiting(&self, durable: &Durable, log: &Log) -> Option<Waiting> {
        let ticket = log.ticket().filter(|_| log.last.is_none())?;
        let body = durable.streams.job_at(ticket.sequence, &log.id).await.ok()??;
        let operation = Operation::parse(None, &body).ok()?;
        let (capability, model) = (operation.capability(), operation.model()?.to_owned());
        let fleet = self.shared.fleet.clone();
        Some(Box::new(move || fleet.with_taking(|workers| without_taker(workers, capability, &model))))
    }
}

/// That nobody is there who could take it.
fn without_taker(workers: &[&WorkerInfo], capability: Capability, model: &str) -> Option<String> {
    let can = |worker: &&WorkerInfo| {
        worker.capabilities.contains(&capability) && worker.models.iter().any(|name| name == model)
    };
    let operation = capability.operation();
    (!workers.iter().any(can))
        .then(|| format!("the job waits: no worker that is up does {operation} with the model `{model}`"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_job_that_somebody_could_take_waits_without_a_word() {
        let worker = WorkerInfo::ready("w", &["m"]);
        let says = |workers: &[&WorkerInfo], capability| without_taker(workers, capability, "m");
        assert_eq!(says(&[&worker], Capability::Generate), None);
        assert!(says(&[&worker], Capability::Inpaint).unwrap().contains("image_inpaint with the model `m`"));
        assert!(says(&[], Capability::Generate).unwrap().contains("no worker that is up"));
        assert!(without_taker(&[&worker], Capability::Generate, "x").is_some());
    }
}
