//! txt2img and img2img: a job that its client waits for, and may interrupt.

use std::time::Duration;

use axum::{
    Extension,
    extract::{Request, State},
    http::{HeaderMap, HeaderValue},
    response::Response,
};
use serde_json::{Map, Value};

use super::{A1111, answer, clients::Running, info::Told, start::Start, wish::Wish};
use crate::{
    contract::{Capability, CompleteEvent, Event, EventKind, JobId, Operation},
    http::Jobs,
    queen::{
        auth::Client,
        foreign::{
            call::{Call, end_of},
            fields::Fields,
            key, now,
            refusal::Failure,
        },
    },
};

/// The most of a task's name that is in its job's id, in characters.
const MAX_TASK: usize = 64;

/// POST /sdapi/v1/txt2img.
pub(super) async fn txt2img(
    State(door): State<A1111>,
    Extension(client): Extension<Client>,
    headers: HeaderMap,
    request: Request,
) -> Result<Response, Failure> {
    let (mut fields, _) = door.foreign.read(request, &[]).await?;
    let mut wish = door.wish(&client, &mut fields)?;
    for side in ["width", "height"] {
        fields.hand_on(&[side], side, &mut wish.body);
    }
    door.draw(&client, &headers, Capability::Generate, wish, fields.ignored()).await
}

/// POST /sdapi/v1/img2img.
pub(super) async fn img2img(
    State(door): State<A1111>,
    Extension(client): Extension<Client>,
    headers: HeaderMap,
    request: Request,
) -> Result<Response, Failure> {
    let (mut fields, _) = door.foreign.read(request, &[]).await?;
    // What an answer repeats is looked at before anything is taken.
    let repeated = Wish::repeated(&fields);
    let start = Start::take(&mut fields)?;
    let mut wish = Wish { repeated, ..door.wish(&client, &mut fields)? };
    let capability = start.capability();
    door.foreign.begin_from(&client, start, &mut wish).await?;
    door.draw(&client, &headers, capability, wish, fields.ignored()).await
}

impl A1111 {
    fn wish(&self, client: &Client, fields: &mut Fields) -> Result<Wish, Failure> {
        Ok(Wish::read(fields, &self.foreign.pool(), self.clients.model(client))?)
    }

    async fn draw(
        &self,
        client: &Client,
        headers: &HeaderMap,
        capability: Capability,
        mut wish: Wish,
        ignored: Option<HeaderValue>,
    ) -> Result<Response, Failure> {
        let key = key::job_id(headers)?;
        let sent = without_pictures(&wish.body);
        let mut operation = Operation::of_fields(capability, std::mem::take(&mut wish.body))?;
        if let Some(id) = wish.task.as_deref().filter(|_| key.is_none()).map(id_of) {
            operation.set_job_id(&id);
        }
        let running = self.clients.begin(client, wish.task.clone(), wish.n);
        let told = Told { wish, sent, begun: now() };
        let mut call = tokio::select! {
            call = self.foreign.call(client, operation, key) => call?,
            // Dropped here, it takes back what it has sent.
            () = running.interruption() => return Ok(answer::interrupted(None, &told, ignored)),
        };
        let id = call.id().clone();
        running.is_job(&id);
        if running.is_interrupted()
            && let Err(error) = self.foreign.queen.cancel(&id).await
        {
            tracing::debug!(job_id = %id, %error, "an interrupted job was not cancelled");
        }
        match end(&mut call, &running).await? {
            Some(complete) => answer::pictures(&self.foreign, &id, complete, told, ignored).await,
            None => Ok(answer::interrupted(Some(&id), &told, ignored)),
        }
    }
}

/// Follows a job to its end; `None`: it was cancelled.
async fn end(call: &mut Call, running: &Running) -> Result<Option<CompleteEvent>, Failure> {
    loop {
        let event = call.next().await?;
        show(&event, running);
        if matches!(event.kind, EventKind::Cancelled { .. }) {
            return Ok(None);
        }
        if let Some(end) = end_of(event) {
            return end.map(Some);
        }
    }
}

fn show(event: &Event, running: &Running) {
    match &event.kind {
        EventKind::Progress { step, total, eta_ms, .. } => {
            let mut shown = running.show();
            (shown.step, shown.total, shown.eta) = (*step, *total, Duration::from_millis(*eta_ms));
        }
        EventKind::Preview { image, .. } => running.show().preview = Some(image.clone()),
        _ => {}
    }
}

/// The fields of a job, but for its pictures: what an answer says of them.
fn without_pictures(body: &Map<String, Value>) -> Map<String, Value> {
    let stays = |name: &str| !matches!(name, "init_image" | "mask_image");
    body.iter().filter(|(name, _)| stays(name)).map(|(name, value)| (name.clone(), value.clone())).collect()
}

/// A job's id that begins with what its client calls it. Names come again, and a job does not: each has an end of its own.
fn id_of(task: &str) -> JobId {
    let plain = |c: char| if c.is_ascii_alphanumeric() || c == '_' { c } else { '-' };
    let name: String = task.chars().take(MAX_TASK).map(plain).collect();
    let name = name.trim_matches('-');
    JobId::new(format!("{name}-{}", JobId::generate())).unwrap_or_else(|_| JobId::generate())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_task_gives_its_job_a_name_that_no_other_job_has() {
        let id = id_of("task(txt2img-ABC1234)").to_string();
        assert!(id.starts_with("task-txt2img-ABC1234-") && id.len() > 50, "{id}");
        assert_ne!(id_of("task(a)"), id_of("task(a)"));
        for odd in ["", "()", &"x".repeat(10_000), "é/.*>"] {
            assert!(id_of(odd).as_str().len() <= 128);
        }
    }
}
