//! A model that is brought into memory for a waiting job, on a thread of its own: running jobs go on meanwhile.

use std::{
    sync::{Arc, mpsc},
    thread,
    time::Duration,
};

use super::{
    EngineError, GenerationRequest, InferencePipeline,
    running_job::{end_early, guarded},
};
use crate::models::{Held, Reserved};

/// How long the engine waits for a model at a time, when it has nothing else to do.
pub(super) const LOOK_EVERY: Duration = Duration::from_millis(20);

/// A waiting job, and the loading of its model. It has a slot.
pub(super) struct Loading {
    /// None when the job has ended since.
    request: Option<GenerationRequest>,
    model: mpsc::Receiver<Result<Held, EngineError>>,
}

/// How far it is.
pub(super) enum Look {
    /// The model is still on its way.
    Goes(Loading),
    /// The job can begin, or its model cannot be loaded.
    Done(GenerationRequest, Result<Held, EngineError>),
    /// The job ended before its model was there.
    Ended,
}

impl Loading {
    /// Begins to load the model of this job into the room that was taken for it.
    pub(super) fn begin(
        pipeline: &Arc<InferencePipeline>,
        request: GenerationRequest,
        reserved: Reserved,
    ) -> Self {
        let (sender, model) = mpsc::channel();
        // The room is handed over when the thread is there: without one it is still ours.
        let (give, take) = mpsc::channel::<Reserved>();
        let (shared, answer) = (Arc::clone(pipeline), sender.clone());
        let load = move || {
            if let Ok(reserved) = take.recv() {
                // Nobody waits for it any more when the engine has ended.
                drop(answer.send(guarded(|| shared.load_reserved(reserved))));
            }
        };
        match thread::Builder::new().name("model loader".into()).spawn(load) {
            Ok(_) => drop(give.send(reserved)),
            Err(error) => {
                tracing::warn!(%error, "there is no thread for loading a model: running jobs wait for it");
                drop(sender.send(guarded(|| pipeline.load_reserved(reserved))));
            }
        }
        Self { request: Some(request), model }
    }

    /// The job that waits for it, unless it has ended; the model is not waited for.
    pub(super) fn abandon(self) -> Option<GenerationRequest> {
        self.request
    }

    /// Looks whether the model is there; waits for it a little when there is nothing else to do.
    pub(super) fn look(mut self, idle: bool) -> Look {
        self.request = self.request.and_then(end_early);
        let patience = if idle { LOOK_EVERY } else { Duration::ZERO };
        match self.model.recv_timeout(patience) {
            Ok(held) => match self.request {
                Some(request) => Look::Done(request, held),
                None => Look::Ended,
            },
            Err(mpsc::RecvTimeoutError::Timeout) => Look::Goes(self),
            Err(mpsc::RecvTimeoutError::Disconnected) => match self.request {
                Some(request) => Look::Done(
                    request,
                    Err(EngineError::Panicked("the thread that loaded the model is gone".into())),
                ),
                None => Look::Ended,
            },
        }
    }
}
