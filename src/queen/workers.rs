//! One worker: how it is, and what an operator tells it (`bus/controls`).

use std::time::Duration;

use axum::{
    Extension, Json,
    extract::{
        Path, State,
        rejection::{ExtensionRejection, PathRejection},
    },
};

use super::{Queen, RETRY_AFTER, auth::Client, busy, routes::Front};
use crate::{
    bus::ControlError,
    contract::{Command, ErrorBody, ErrorCode, HttpCode, WireCode, WorkerId, WorkerInfo, Workers},
    http::{
        ApiError,
        endpoint::{Description, Endpoints, described, of, text},
    },
};

/// How long a worker has to do what takes no time.
const ANSWER_WITHIN: Duration = Duration::from_secs(15);
/// Workers that a message names.
const MAX_NAMES: usize = 20;

/// GET /v1/workers, GET /v1/workers/{id}, POST /v1/workers/{id}/drain and /resume, POST
/// /v1/workers/{id}/models/{name}/load and /unload.
pub(super) fn endpoints() -> Endpoints<Front> {
    let one_of = |id, summary| {
        described(id, summary).path("id", "A worker's id.", of::<WorkerId>).gives(
            200,
            "how it is now",
            of::<WorkerInfo>,
        )
    };
    let told = |id, summary| one_of(id, summary).errs(&[400, 403, 404, 409, 503, 504]);
    let of_a_model =
        |id, summary| Description::path(told(id, summary), "name", "A model of the worker's.", text);
    Endpoints::new("Workers", of::<ErrorBody>)
        .get(
            "/v1/workers",
            list,
            described("listWorkers", "The workers whose heartbeats are fresh.").gives(
                200,
                "the workers",
                of::<Workers>,
            ),
        )
        .get("/v1/workers/{id}", self::one, one_of("getWorker", "One worker.").errs(&[400, 404]))
        .post("/v1/workers/{id}/drain", drain, told("drainWorker", "Has a worker take no more jobs."))
        .post(
            "/v1/workers/{id}/resume",
            resume,
            told("resumeWorker", "Has a drained worker take jobs again."),
        )
        .post(
            "/v1/workers/{id}/models/{name}/load",
            load,
            of_a_model("loadModel", "Has a worker load a model into memory."),
        )
        .post(
            "/v1/workers/{id}/models/{name}/unload",
            unload,
            of_a_model("unloadModel", "Has a worker take a model out of memory."),
        )
}

/// Who asks.
type Asks = Result<Extension<Client>, ExtensionRejection>;
/// The worker in a path.
type Id = Result<Path<String>, PathRejection>;
/// The worker and the model in a path.
type IdAndModel = Result<Path<(String, String)>, PathRejection>;
/// How the worker is now.
type Answer = Result<Json<WorkerInfo>, ApiError>;

async fn list(State(queen): State<Queen>) -> Json<Workers> {
    Json(queen.workers())
}

async fn one(State(queen): State<Queen>, id: Id) -> Answer {
    let id = worker_id(id)?;
    match queen.worker(&id) {
        Some(info) => Ok(Json(info)),
        None => Err(queen.no_worker(&id)),
    }
}

async fn drain(State(queen): State<Queen>, asks: Asks, id: Id) -> Answer {
    queen.command(asks, worker_id(id)?, Command::Drain).await
}

async fn resume(State(queen): State<Queen>, asks: Asks, id: Id) -> Answer {
    queen.command(asks, worker_id(id)?, Command::Resume).await
}

async fn load(State(queen): State<Queen>, asks: Asks, path: IdAndModel) -> Answer {
    let (id, model) = worker_and_model(path)?;
    queen.command(asks, id, Command::Load { model }).await
}

async fn unload(State(queen): State<Queen>, asks: Asks, path: IdAndModel) -> Answer {
    let (id, model) = worker_and_model(path)?;
    queen.command(asks, id, Command::Unload { model }).await
}

impl Queen {
    /// A worker whose heartbeat is fresh.
    fn worker(&self, id: &WorkerId) -> Option<WorkerInfo> {
        self.shared.fleet.with_all(|workers| workers.iter().find(|info| info.id == *id).copied().cloned())
    }

    /// Tells a worker what to do, and waits until it is done.
    async fn command(&self, asks: Asks, id: WorkerId, command: Command) -> Answer {
        may_command(asks)?;
        if !self.shared.requester.is_connected() {
            return Err(busy("queen has no connection to NATS at present"));
        }
        let within = match command {
            Command::Load { .. } => self.shared.options.load_timeout,
            Command::Drain | Command::Resume | Command::Unload { .. } | Command::Status => ANSWER_WITHIN,
        };
        match self.shared.requester.control(&id, &command, within).await {
            Ok(info) => {
                tracing::info!(worker = %id, command = command.name(), "a worker was told, and did it");
                self.shared.fleet.heard(info.clone());
                Ok(Json(info))
            }
            Err(ControlError::NobodyThere(_)) if self.worker(&id).is_none() => Err(self.no_worker(&id)),
            Err(error) => Err(told(error)),
        }
    }

    fn no_worker(&self, id: &WorkerId) -> ApiError {
        let up = self.shared.fleet.with_all(|workers| {
            let mut names: Vec<_> = workers.iter().map(|info| info.id.to_string()).collect();
            names.sort();
            names
        });
        let there_are = match &up[..] {
            [] => "there is none".to_owned(),
            names if names.len() > MAX_NAMES => format!("GET /v1/workers lists the {} that are", names.len()),
            names => format!("there are: {}", names.join(", ")),
        };
        ApiError::not_found(format!("no worker `{id}` is up; {there_are}"))
    }
}

/// Refuses whoever may send jobs and not tell workers what to do.
fn may_command(asks: Asks) -> Result<(), ApiError> {
    match asks {
        Ok(Extension(client)) if client.may_administer() => Ok(()),
        Ok(_) | Err(_) => Err(ApiError::of_request(
            HttpCode::Forbidden,
            "this takes the token of an administrator: one whose line in the file of tokens ends with `:admin`",
        )),
    }
}

/// What a client is told of a command that was not done.
fn told(error: ControlError) -> ApiError {
    let message = error.to_string();
    match error {
        ControlError::Refused(detail) => match detail.code {
            WireCode::Http(code) => ApiError::of_request(code, message),
            // It is the state of the worker, and no failure of it.
            WireCode::Job(code @ ErrorCode::OutOfMemory) => {
                ApiError { status: HttpCode::Conflict.status(), ..ApiError::new(code, message) }
            }
            WireCode::Job(code @ (ErrorCode::Busy | ErrorCode::ShuttingDown)) => {
                ApiError::new(code, message).with_retry_after(RETRY_AFTER)
            }
            WireCode::Job(code) => ApiError::new(code, message),
        },
        ControlError::NobodyThere(_) | ControlError::NotSent { .. } => busy(&message),
        ControlError::Silent { .. } => ApiError::new(ErrorCode::DeadlineExceeded, message),
        ControlError::Foreign { .. } => ApiError::new(ErrorCode::Internal, message),
    }
}

fn worker_id(id: Id) -> Result<WorkerId, ApiError> {
    let Path(id) = id.map_err(|_| bad_path())?;
    Ok(WorkerId::new(id)?)
}

fn worker_and_model(path: IdAndModel) -> Result<(WorkerId, String), ApiError> {
    let Path((id, model)) = path.map_err(|_| bad_path())?;
    Ok((WorkerId::new(id)?, model))
}

fn bad_path() -> ApiError {
    ApiError::new(ErrorCode::InvalidRequest, "the path is not UTF-8")
}
