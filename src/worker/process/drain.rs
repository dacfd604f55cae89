//! The end of a worker: drained on SIGTERM, SIGINT or SIGHUP, or because it is of no use any more.

use std::{process::ExitCode, time::Duration};

use tokio::time::{Instant, timeout, timeout_at};

use crate::{
    bus::{Heartbeat, WorkerBus},
    engine::{EngineHandle, EngineLost},
    worker::shared::Context,
};

/// Exit code: the engine or its device is of no use any more, or what takes jobs was lost; a supervisor starts the worker
/// again.
pub const LOST: u8 = 70;
/// Exit code: it was told to stop, and NATS was not there to hear how some jobs ended.
const UNHEARD: u8 = 69;

/// A worker that was told to stop has ended after its grace time and this much. Supervisors must wait for longer.
const DRAIN_MARGIN: Duration = Duration::from_secs(20);
/// How long what comes after the engine's end may take: the last round trip, the HTTP server, the runtime, the process.
const LAST_WORDS: Duration = Duration::from_secs(7);
/// How long the doors may take to close.
const CLOSE_LIMIT: Duration = Duration::from_secs(3);
/// From the end of the grace time: until then the engine may answer for the jobs that were stopped. Those whose step takes
/// longer are given back as their last snapshot has them.
const ANSWERED_BY: Duration = Duration::from_secs(10);
/// From the end of the grace time: until then what was computed may be stored, and ends told.
const TOLD_BY: Duration = Duration::from_secs(12);
/// From the end of the grace time: until then the engine's thread may end.
const ENGINE_BY: Duration = DRAIN_MARGIN.saturating_sub(LAST_WORDS);
/// How long the last round trip through NATS may take.
const FAREWELL_LIMIT: Duration = Duration::from_millis(1500);
/// How long jobs that have nothing to do with the engine may go on when it is lost: they have their pictures.
const STORED_LIMIT: Duration = Duration::from_secs(5);
/// How long jobs may take to be given back after that.
const GIVEN_BACK_LIMIT: Duration = Duration::from_secs(5);
/// How long a process may take to end whose device is stuck: its driver may wait for the device.
const EXIT_LIMIT: Duration = Duration::from_secs(5);
/// How long /health says at least that the worker has failed: whoever asks every second hears it.
const FAILED_FOR: Duration = Duration::from_secs(3);

/// The engine's handle, and whether it has ended.
pub struct Engine {
    handle: EngineHandle,
    ended: bool,
}

impl Engine {
    pub fn new(handle: EngineHandle) -> Self {
        Self { handle, ended: false }
    }

    /// Resolves when the engine ends although nobody told it to, or its device is stuck.
    pub async fn lost(&mut self) -> String {
        let ended = self.join().await;
        ended.map_or_else(|lost| lost.to_string(), |()| "it ended while it was needed".into())
    }

    async fn join(&mut self) -> Result<(), EngineLost> {
        if self.ended {
            return Ok(());
        }
        let ended = self.handle.join().await;
        self.ended = !matches!(ended, Err(EngineLost::Stuck(_)));
        ended
    }
}

/// What a worker has at its end.
pub struct Ending<'a> {
    pub context: &'a Context,
    pub engine: &'a mut Engine,
    /// Tells the pool that this worker is there.
    pub heartbeat: &'a mut Option<Heartbeat>,
}

impl Ending<'_> {
    /// Takes no more jobs, lets those that run end within `grace`, stops the rest, and leaves nothing unsaid. It has ended
    /// [`DRAIN_MARGIN`] after the grace time, whatever hangs.
    pub async fn drain(&mut self, bus: &WorkerBus, grace: Duration) -> ExitCode {
        let over = Instant::now() + grace;
        self.close().await;
        let context = self.context;
        tokio::select! {
            in_time = timeout_at(over, context.held.emptied()) => {
                if in_time.is_err() {
                    self.stop_jobs(over).await;
                }
            }
            lost = self.engine.lost() => {
                tracing::error!(error = %lost, "the engine was lost while the worker drained");
                return self.leave().await;
            }
        }
        context.drop_queue();
        let engine_ended = match timeout_at(over + ENGINE_BY, self.engine.join()).await {
            Ok(Ok(())) => true,
            Ok(Err(error)) => {
                tracing::error!(%error, "the engine did not end well");
                false
            }
            Err(_) => {
                tracing::error!("the engine is still in a step; leaving it");
                false
            }
        };
        if let Some(heartbeat) = self.heartbeat.take() {
            heartbeat.stop().await;
        }
        bus.farewell(context.info()).await;
        // Answers to late messages are with the server when this comes back.
        if timeout(FAREWELL_LIMIT, bus.round_trip()).await != Ok(true) {
            tracing::warn!("the server did not confirm the last messages");
        }
        if !engine_ended {
            end_for_sure();
            ExitCode::from(LOST)
        } else if context.held.is_empty() {
            tracing::info!("drained");
            ExitCode::SUCCESS
        } else {
            ExitCode::from(UNHEARD)
        }
    }

    /// The grace time is over.
    async fn stop_jobs(&mut self, over: Instant) {
        let context = self.context;
        tracing::warn!(jobs = context.held.len(), "the grace time is over; stopping what still runs");
        context.held.hand_back_all();
        if timeout_at(over + ANSWERED_BY, context.held.emptied()).await.is_ok() {
            return;
        }
        // A job may be told its end and not have published it yet; what is computed is stored.
        tracing::warn!(jobs = context.held.len(), "the engine is not waited for any longer");
        context.lose_engine();
        if timeout_at(over + TOLD_BY, context.held.emptied()).await.is_err() {
            tracing::error!(jobs = context.held.len(), "these jobs' ends could not be published");
        }
    }

    /// The engine, or what takes jobs, is gone: what it held is given back without having failed, and nothing more is
    /// taken.
    pub async fn leave(&mut self) -> ExitCode {
        let (context, begun) = (self.context, Instant::now());
        context.lose_engine();
        self.close().await;
        if timeout(STORED_LIMIT, context.held.emptied()).await.is_err() {
            context.held.hand_back_all();
            if timeout(GIVEN_BACK_LIMIT, context.held.emptied()).await.is_err() {
                tracing::error!(jobs = context.held.len(), "these jobs' ends could not be published");
            }
        }
        // From here on there is no sign of life.
        self.heartbeat.take();
        tokio::time::sleep_until(begun + FAILED_FOR).await;
        end_for_sure();
        ExitCode::from(LOST)
    }

    async fn close(&self) {
        self.context.close();
        if timeout(CLOSE_LIMIT, self.context.doors_are(false)).await.is_err() {
            tracing::warn!("the doors could not be closed in time");
        }
    }
}

/// Ends the process when it does not end by itself, with SIGABRT: not even the system waits for a stuck device then.
#[cfg(not(test))]
fn end_for_sure() {
    std::thread::spawn(|| {
        std::thread::sleep(EXIT_LIMIT);
        tracing::error!("the process does not end by itself");
        crate::logging::flush();
        std::process::abort();
    });
}

/// The process of the tests goes on.
#[cfg(test)]
fn end_for_sure() {}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        bus::{EventLog, Settle, Via, memory::Settled},
        contract::{Capability, JobId},
        worker::{
            shared::Stop,
            testing::{Worker, worker},
        },
    };

    async fn leave(worker: &mut Worker) {
        let mut ending =
            Ending { context: &worker.context, engine: &mut worker.engine, heartbeat: &mut None };
        let code = ending.leave().await;
        assert_eq!(format!("{code:?}"), format!("{:?}", ExitCode::from(LOST)));
        assert!(worker.context.is_closed() && worker.context.is_engine_lost());
        assert_eq!(worker.requester.armed(), 0);
    }

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
        leave(&mut worker).await;
    }

    /// Delivers a durable job, and waits until this many of its events are stored.
    async fn begun(worker: &Worker, events: usize) -> JobId {
        let body = r#"{"prompt":"a","job_id":"j","model":"sim","steps":4}"#;
        let id = JobId::new("j").unwrap();
        worker.publisher.deliver("sim", Capability::Generate, &id, body, 1, Duration::ZERO);
        while worker.log.events(&id).len() < events {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        id
    }

    /// A runtime that does not wait for the engine's thread at its end.
    fn beside_a_stuck_thread(test: impl Future<Output = ()>) {
        let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().unwrap();
        runtime.block_on(test);
        runtime.shutdown_background();
    }

    #[test]
    fn a_job_whose_step_never_ends_is_given_back_and_has_not_failed() {
        beside_a_stuck_thread(async {
            let mut worker = worker("sim://?step_ms=0&size=64&fail=hang&fail_step=2", 1);
            let id = begun(&worker, 2).await;
            assert_eq!(
                worker.log.last(&id).await.unwrap().unwrap().failures,
                1,
                "counted until it is given back"
            );
            leave(&mut worker).await;
            assert_eq!(worker.settled.try_recv().unwrap(), Settled::As(Settle::Again(Duration::ZERO)));
            assert_eq!(worker.log.last(&id).await.unwrap().unwrap().failures, 0);
            assert!(worker.context.held.is_empty());
        });
    }

    #[test]
    fn a_cancelled_job_whose_step_never_ends_is_cancelled() {
        beside_a_stuck_thread(async {
            let mut worker = worker("sim://?step_ms=0&size=64&fail=hang&fail_step=2", 1);
            let id = begun(&worker, 2).await;
            worker.context.held.running(&id).unwrap().stop(Stop::Cancelled);
            leave(&mut worker).await;
            assert_eq!(worker.settled.try_recv().unwrap(), Settled::As(Settle::Done));
            assert_eq!(worker.log.events(&id).last().unwrap().kind.name(), "cancelled");
        });
    }

    #[tokio::test]
    async fn an_error_of_the_device_gives_the_job_back_and_closes_the_worker_before_it_comes_again() {
        let mut worker = worker("sim://?step_ms=0&size=64&fail=device&fail_step=2", 1);
        let id = begun(&worker, 1).await;
        let settled = worker.settled.recv().await.unwrap();
        assert!(worker.context.is_closed());
        assert_eq!(settled, Settled::As(Settle::Again(Duration::ZERO)));
        assert_eq!(worker.log.last(&id).await.unwrap().unwrap().failures, 0);
        let lost = worker.engine.lost().await;
        assert!(lost.contains("the simulation's device failed"), "{lost}");
    }

    #[tokio::test]
    async fn a_device_that_errs_for_ever_is_found_by_its_test_and_one_that_errs_once_goes_on() {
        for (model, fails) in [("fail=panic&fail_after=1", true), ("fail=panic&fail_times=2", false)] {
            let mut worker = worker(&format!("sim://?step_ms=0&size=64&{model}"), 1);
            for number in 0..3 {
                let body = format!(r#"{{"prompt":"a","job_id":"j{number}","model":"sim","steps":1}}"#);
                let id = JobId::new(format!("j{number}")).unwrap();
                worker.publisher.deliver("sim", Capability::Generate, &id, &body, 1, Duration::ZERO);
                if worker.settled.recv().await.unwrap() == Settled::As(Settle::Again(Duration::ZERO)) {
                    break;
                }
            }
            assert_eq!(worker.context.is_closed(), fails, "{model}");
            if fails {
                let lost = worker.engine.lost().await;
                assert!(lost.contains("its test"), "{lost}");
            }
        }
    }

    #[test]
    fn what_hangs_at_the_end_of_a_drain_is_left_in_time() {
        assert!(CLOSE_LIMIT < ANSWERED_BY && ANSWERED_BY < TOLD_BY && TOLD_BY < ENGINE_BY);
        // The HTTP server, the last spans and the runtime come after the drain.
        let process = super::super::start::RUNTIME_SHUTDOWN + crate::logging::FLUSH_LIMIT;
        let rest = crate::http::STOP_LIMIT + crate::traces::FLUSH_LIMIT + process;
        assert!(rest < EXIT_LIMIT && FAREWELL_LIMIT + EXIT_LIMIT < LAST_WORDS);
        assert!(CLOSE_LIMIT + STORED_LIMIT + GIVEN_BACK_LIMIT + EXIT_LIMIT < DRAIN_MARGIN);
    }

    #[test]
    fn compose_waits_for_longer_than_a_drain_takes() {
        let compose = include_str!("../../../docker-compose.yml");
        let worker = compose.split("\n  worker:\n").nth(1).unwrap();
        let wait = worker.split("stop_grace_period: ").nth(1).unwrap();
        let wait = crate::units::parse_duration(wait.lines().next().unwrap().trim()).unwrap();
        let grace = crate::units::parse_duration("60s").unwrap();
        assert!(wait > grace + DRAIN_MARGIN, "{wait:?}");
    }
}
