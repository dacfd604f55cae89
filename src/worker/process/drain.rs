//! The end of a worker: drained on SIGTERM or SIGINT, or because its engine was lost.

use std::{process::ExitCode, time::Duration};

use tokio::{
    signal::unix::{Signal, SignalKind, signal},
    sync::Notify,
    time::timeout,
};

use crate::{
    bus::WorkerBus,
    engine::{EngineHandle, EngineLost},
    worker::shared::Context,
};

/// Exit code: the engine ended by itself; a supervisor starts the worker again.
const ENGINE_LOST: u8 = 70;
/// Exit code: it was told to stop, and some ends of jobs could not be published.
const NOT_DRAINED: u8 = 1;
/// How long the doors may take to close.
const CLOSE_LIMIT: Duration = Duration::from_secs(5);
/// How long jobs that were stopped at the end of the grace time may take to say so, and computed ones to be stored.
const FINISH_LIMIT: Duration = Duration::from_secs(30);
/// How long the engine may take for the step it is in.
const ENGINE_LIMIT: Duration = Duration::from_secs(30);
/// How long the last round trip through NATS may take.
const FAREWELL_LIMIT: Duration = Duration::from_secs(2);

/// SIGTERM and SIGINT.
pub struct Signals {
    terminate: Signal,
    interrupt: Signal,
}

impl Signals {
    pub fn listen() -> std::io::Result<Self> {
        Ok(Self { terminate: signal(SignalKind::terminate())?, interrupt: signal(SignalKind::interrupt())? })
    }

    /// The name of the next signal.
    pub async fn recv(&mut self) -> &'static str {
        tokio::select! {
            _ = self.terminate.recv() => "SIGTERM",
            _ = self.interrupt.recv() => "SIGINT",
        }
    }

    /// From now on a signal ends the process at once, with the code that shells give to a killed one.
    pub fn exit_at_the_next(mut self) {
        tokio::spawn(async move {
            let signal = self.recv().await;
            tracing::warn!(signal, "stopping at once");
            std::process::exit(if signal == "SIGINT" { 130 } else { 143 });
        });
    }
}

/// The engine's handle, and whether it has ended.
pub struct Engine {
    handle: EngineHandle,
    ended: bool,
}

impl Engine {
    pub fn new(handle: EngineHandle) -> Self {
        Self { handle, ended: false }
    }

    /// Resolves when the engine ends although nobody told it to.
    pub async fn lost(&mut self) -> String {
        let ended = self.join().await;
        ended.map_or_else(|lost| lost.to_string(), |()| "it ended while it was needed".into())
    }

    async fn join(&mut self) -> Result<(), EngineLost> {
        if self.ended {
            return Ok(());
        }
        let ended = self.handle.join().await;
        self.ended = true;
        ended
    }
}

/// Takes no more jobs, lets those that run end within `grace`, stops the rest, and leaves nothing unsaid.
pub async fn drain(
    context: &Context,
    bus: &WorkerBus,
    engine: &mut Engine,
    doors_closed: &Notify,
    grace: Duration,
) -> ExitCode {
    close(context, doors_closed).await;
    if timeout(grace, context.held.emptied()).await.is_err() {
        tracing::warn!(jobs = context.held.len(), "the grace time is over; stopping what still runs");
        context.held.hand_back_all();
        // A job may be told its end and not have published it yet; what is computed is stored.
        if timeout(FINISH_LIMIT, context.held.emptied()).await.is_err() {
            tracing::error!(jobs = context.held.len(), "these jobs' ends could not be published");
        }
    }
    context.drop_queue();
    match timeout(ENGINE_LIMIT, engine.join()).await {
        Ok(Ok(())) => {}
        Ok(Err(error)) => tracing::error!(%error, "the engine did not end well"),
        Err(_) => tracing::error!("the engine is still in a step; leaving it"),
    }
    // Answers to late messages are with the server when this comes back.
    if timeout(FAREWELL_LIMIT, bus.round_trip()).await != Ok(true) {
        tracing::warn!("the server did not confirm the last messages");
    }
    if context.held.is_empty() {
        tracing::info!("drained");
        ExitCode::SUCCESS
    } else {
        ExitCode::from(NOT_DRAINED)
    }
}

/// The engine is gone: what it held fails with a retryable error, and nothing more is taken.
pub async fn engine_lost(context: &Context, doors_closed: &Notify) -> ExitCode {
    close(context, doors_closed).await;
    context.drop_queue();
    if timeout(FINISH_LIMIT, context.held.emptied()).await.is_err() {
        tracing::error!(jobs = context.held.len(), "these jobs' ends could not be published");
    }
    ExitCode::from(ENGINE_LOST)
}

async fn close(context: &Context, doors_closed: &Notify) {
    context.close();
    if timeout(CLOSE_LIMIT, doors_closed.notified()).await.is_err() {
        tracing::warn!("the doors could not be closed in time");
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{bus::Via, contract::Capability, worker::testing::worker};

    #[tokio::test]
    async fn a_lost_engine_closes_the_worker_and_fails_what_comes_with_a_retryable_error() {
        let mut worker = worker("sim://?step_ms=0&size=64", 1);
        // The engine ends although nobody drains: as after a panic of its loop.
        worker.context.drop_queue();
        worker.engine.lost().await;
        worker.requester.send(Via::Direct, Capability::Generate, r#"{"prompt":"a"}"#, "r");
        let event = loop {
            let event = worker.out.recv().await.unwrap().event.unwrap();
            if event.kind.is_terminal() {
                break serde_json::to_value(&*event).unwrap();
            }
        };
        assert_eq!((&event["code"], &event["retryable"]), (&"shutting_down".into(), &true.into()));
        let code = engine_lost(&worker.context, &worker.closed).await;
        assert_eq!(format!("{code:?}"), format!("{:?}", ExitCode::from(70)));
        assert!(worker.context.is_closed());
        assert_eq!(worker.requester.armed(), 0);
    }
}
