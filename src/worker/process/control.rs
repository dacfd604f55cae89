//! What an operator tells this worker on `worker.<id>.control`: drained and resumed, models brought into memory and let go.
//!
//! Commands are done one after the other, in the order they came; the last of two operators has his way. Those about models
//! take their time beside the others.

use std::{sync::Arc, time::Duration};

use tokio::{
    sync::{Notify, Semaphore},
    time::timeout,
};

use crate::{
    bus::{ControlRequest, Controls},
    contract::{Command, ContractError, ErrorBody, ErrorCode, ErrorDetail, WireCode, WorkerInfo},
    engine::{ByHand, EngineError},
    worker::shared::Context,
};

/// Models that may be on their way into memory, or wait for that, at somebody's word.
const MAX_LOADS: usize = 4;
/// How long doors may take to close or to open before the answer says how the worker is.
const DOORS_WITHIN: Duration = Duration::from_secs(3);

/// Does what operators say.
#[derive(Clone)]
pub struct Control {
    context: Arc<Context>,
    models: ByHand,
    loads: Arc<Semaphore>,
    /// Told when a heartbeat is wanted now.
    heartbeat: Arc<Notify>,
}

/// Why a command is not done.
struct Refused(ErrorCode, String);

impl From<ContractError> for Refused {
    fn from(error: ContractError) -> Self {
        Self(error.code(), error.to_string())
    }
}

impl From<EngineError> for Refused {
    fn from(error: EngineError) -> Self {
        Self(error.code(), error.to_string())
    }
}

impl Control {
    /// Of this worker. `heartbeat` is told when one is wanted now.
    pub fn new(context: Arc<Context>, models: ByHand, heartbeat: Arc<Notify>) -> Self {
        Self { context, models, loads: Arc::new(Semaphore::new(MAX_LOADS)), heartbeat }
    }

    /// Does what is said until the connection ends.
    pub async fn hear(self, mut controls: Controls) {
        while let Some(request) = controls.next().await {
            match Command::parse(&request.body) {
                // Loading takes minutes, letting go may wait for the device, and a drain waits for neither.
                Ok(command @ (Command::Load { .. } | Command::Unload { .. })) => {
                    let control = self.clone();
                    tokio::spawn(async move {
                        let done = control.obey(command).await;
                        control.answer(request, done).await;
                    });
                }
                Ok(command) => {
                    let done = self.obey(command).await;
                    self.answer(request, done).await;
                }
                Err(error) => self.answer(request, Err(error.into())).await,
            }
        }
    }

    async fn obey(&self, command: Command) -> Result<(), Refused> {
        let name = command.name();
        match command {
            Command::Drain | Command::Resume => {
                if self.context.is_closed() {
                    return Err(shuts_down());
                }
                let drain = command == Command::Drain;
                self.context.drain(drain);
                if timeout(DOORS_WITHIN, self.context.doors_are(!drain)).await.is_err() {
                    tracing::warn!(command = name, "the doors take their time");
                }
            }
            Command::Unload { model } => {
                let models = self.models.clone();
                on_a_thread(move || models.unload(&model)).await?;
            }
            Command::Load { model } => self.load(model).await?,
            Command::Status => self.heartbeat.notify_one(),
        }
        tracing::info!(command = name, "an operator's command is done");
        Ok(())
    }

    async fn load(&self, model: String) -> Result<(), Refused> {
        if self.context.is_closed() {
            return Err(shuts_down());
        }
        let Ok(_place) = self.loads.clone().try_acquire_owned() else {
            let message =
                format!("{MAX_LOADS} models are on their way into memory, as many as may; try again");
            return Err(Refused(ErrorCode::Busy, message));
        };
        let models = self.models.clone();
        on_a_thread(move || models.load(&model)).await
    }

    async fn answer(&self, request: ControlRequest, done: Result<(), Refused>) {
        // Models come and go without a word: what is told to the pool is looked at anew.
        self.context.slots.changed();
        let done: Result<WorkerInfo, ErrorBody> = match done {
            Ok(()) => Ok(self.context.info()),
            Err(Refused(code, message)) => {
                tracing::info!(%code, message, "a command is refused");
                let (retryable, code) = (code.retryable(), WireCode::Job(code));
                Err(ErrorBody { error: ErrorDetail { code, message, retryable } })
            }
        };
        request.answer(done.as_ref()).await;
    }
}

fn shuts_down() -> Refused {
    Refused(ErrorCode::ShuttingDown, "the worker shuts down".into())
}

async fn on_a_thread(work: impl FnOnce() -> Result<(), EngineError> + Send + 'static) -> Result<(), Refused> {
    match tokio::task::spawn_blocking(work).await {
        Ok(done) => Ok(done?),
        Err(error) => Err(Refused(ErrorCode::Internal, error.to_string())),
    }
}
