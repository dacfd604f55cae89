//! How far a client's own calls are, and how it ends them.

use std::{collections::HashMap, sync::Arc};

use axum::{
    Extension, Json,
    extract::{Query, Request, State, rejection::QueryRejection},
};
use serde::Deserialize;
use serde_json::{Value, json};

use super::{A1111, clients::Running};
use crate::{http::Jobs, queen::auth::Client};

/// What stands behind a path. One that cannot be read says nothing.
type Words = Result<Query<HashMap<String, String>>, QueryRejection>;

fn word(words: &Words, name: &str) -> Option<String> {
    words.as_ref().ok()?.get(name).cloned()
}

/// GET /sdapi/v1/progress: of the client's oldest call; with `?skip_current_image=true` without its preview.
pub(super) async fn progress(
    State(door): State<A1111>,
    Extension(client): Extension<Client>,
    words: Words,
) -> Json<Value> {
    let running = door.clients.running(&client);
    let skips = word(&words, "skip_current_image");
    let with_image = !skips.is_some_and(|skips| skips.eq_ignore_ascii_case("true") || skips == "1");
    Json(of(running.first().map(Arc::as_ref), running.len(), with_image))
}

/// Every key that clients look for. `calls`: of the client, those that wait for their turn included.
fn of(running: Option<&Running>, calls: usize, with_image: bool) -> Value {
    let shown = running.map(Running::shown).unwrap_or_default();
    let pictures = u32::try_from(running.map_or(1, |running| running.pictures)).unwrap_or(1).max(1);
    let steps = shown.total / pictures;
    let (picture, step) = match steps {
        0 => (0, 0),
        // After the last step of a picture it is still that picture's.
        steps => (
            shown.step.saturating_sub(1) / steps,
            shown.step.saturating_sub(1) % steps + u32::from(shown.step > 0),
        ),
    };
    let done = if shown.total == 0 { 0.0 } else { f64::from(shown.step) / f64::from(shown.total) };
    let interrupted = running.is_some_and(Running::is_interrupted);
    let text = running.map(|running| match (interrupted, running.id(), shown.total) {
        (true, ..) => "being interrupted".to_owned(),
        (false, None, _) => "waiting for a worker".to_owned(),
        (false, Some(_), 0) => format!("waiting, for {} s", running.age().as_secs()),
        (false, Some(_), total) => format!("step {} of {total}", shown.step),
    });
    json!({
        "progress": done,
        "eta_relative": shown.eta.as_secs_f64(),
        "state": {
            "skipped": false,
            "interrupted": interrupted,
            "stopping_generation": interrupted,
            "job": running.and_then(Running::id).map(ToString::to_string).unwrap_or_default(),
            "job_count": calls,
            "job_timestamp": "0",
            "job_no": picture,
            "sampling_step": step,
            "sampling_steps": steps,
        },
        "current_image": shown.preview.filter(|_| with_image),
        "textinfo": text,
        "current_task": running.and_then(|running| running.task.clone()),
    })
}

/// Which of its calls a client means; none: all.
#[derive(Debug, Default, Deserialize)]
struct Meant {
    #[serde(default)]
    force_task_id: Option<String>,
}

/// The longest body of an interrupt.
const MAX_BODY: usize = 4096;

/// POST /sdapi/v1/interrupt and /skip: ends the client's own calls, or the one that `force_task_id` names.
pub(super) async fn interrupt(
    State(door): State<A1111>,
    Extension(client): Extension<Client>,
    words: Words,
    request: Request,
) -> Json<Value> {
    let body = axum::body::to_bytes(request.into_body(), MAX_BODY).await.unwrap_or_default();
    // Most send nothing.
    let meant = word(&words, "force_task_id")
        .or(serde_json::from_slice::<Meant>(&body).unwrap_or_default().force_task_id);
    let of_client = door.clients.running(&client);
    for running in of_client.iter().filter(|running| meant.is_none() || running.task == meant) {
        running.interrupt();
        if let Some(id) = running.id() {
            match door.foreign.queen.cancel(id).await {
                Ok(()) => tracing::info!(job_id = %id, "a job is cancelled: its client has interrupted it"),
                // It has ended by itself, most likely.
                Err(error) => tracing::debug!(job_id = %id, %error, "an interrupted job was not cancelled"),
            }
        }
    }
    Json(json!({}))
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::{
        contract::JobId,
        queen::foreign::a1111::clients::{Clients, Shown},
    };

    #[test]
    fn without_a_call_everything_is_there_and_nothing_counts() {
        let idle = of(None, 0, true);
        assert_eq!((&idle["progress"], &idle["state"]["job_count"]), (&json!(0.0), &json!(0)));
        for key in ["current_image", "textinfo", "current_task"] {
            assert_eq!(idle.get(key), Some(&Value::Null), "{key}");
        }
    }

    #[test]
    fn a_call_is_shown_by_its_picture_and_its_step() {
        let clients = Clients::default();
        let client = Client::At(std::net::Ipv4Addr::LOCALHOST.into());
        let running = clients.begin(&client, Some("task(a)".into()), 2);
        assert_eq!(of(Some(&*running), 1, true)["textinfo"], "waiting for a worker");
        running.is_job(&JobId::new("j").unwrap());
        let shown =
            |step| Shown { step, total: 20, eta: Duration::from_millis(1500), preview: Some("AAAA".into()) };
        for (step, picture, of_picture) in [(0, 0, 0), (1, 0, 1), (10, 0, 10), (11, 1, 1), (20, 1, 10)] {
            *running.show() = shown(step);
            let said = of(Some(&*running), 3, step % 2 == 0);
            let state = &said["state"];
            assert_eq!(
                (&state["job_no"], &state["sampling_step"]),
                (&json!(picture), &json!(of_picture)),
                "{step}"
            );
            assert_eq!((&state["sampling_steps"], &state["job_count"]), (&json!(10), &json!(3)));
            assert_eq!((&said["eta_relative"], &said["current_task"]), (&json!(1.5), &json!("task(a)")));
            assert_eq!(said["current_image"].is_null(), step % 2 == 1);
        }
        running.interrupt();
        assert_eq!(of(Some(&*running), 1, true)["state"]["interrupted"], true);
    }
}
