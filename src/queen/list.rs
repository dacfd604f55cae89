//! GET /v1/jobs: the jobs of whoever asks, the newest first.
//!
//! Durable jobs are those whose tickets the streams keep (7 days, unless `--events-max-age` says otherwise), the newest 50,000
//! of the pool; any queen lists the same, also after a restart. Jobs that are not durable are those that this queen remembers.

use axum::{
    Json,
    extract::{Query, rejection::QueryRejection},
};
use futures::{StreamExt, TryStreamExt, stream};
use schemars::json_schema;
use serde::Deserialize;

use super::{Queen, owner::Asked, routes::Front};
use crate::{
    bus::Entered,
    contract::{About, ErrorBody, ErrorCode, JobId, JobList, JobStatus, JobSummary},
    http::{
        ApiError,
        endpoint::{Endpoints, described, of, text},
    },
};

/// Jobs of a page, unless told.
const DEFAULT_LIMIT: usize = 50;
/// The most jobs of a page.
const MAX_LIMIT: usize = 200;
/// Jobs of a page whose state is asked for at one time.
const ASKED_AT_ONCE: usize = 16;

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct ListQuery {
    limit: Option<String>,
    before: Option<String>,
}

/// A job, as far as it is known without asking anybody.
struct Found {
    id: JobId,
    created_ms: u64,
    about: Option<About>,
    /// `None`: the streams know.
    status: Option<JobStatus>,
}

/// GET /v1/jobs.
pub(super) fn endpoints() -> Endpoints<Front> {
    Endpoints::new("Jobs", of::<ErrorBody>).get(
        "/v1/jobs",
        list,
        described("listJobs", "The jobs of whoever asks, the newest first.")
            .query(
                "limit",
                "Jobs of a page, 50 unless told.",
                |_| json_schema!({"type": "integer", "minimum": 1, "maximum": MAX_LIMIT}),
            )
            .query("before", "The `next` of the page before.", text)
            .gives(200, "a page", of::<JobList>)
            .errs(&[400, 503]),
    )
}

async fn list(
    Asked(queen): Asked,
    query: Result<Query<ListQuery>, QueryRejection>,
) -> Result<Json<JobList>, ApiError> {
    let refuse = |message: String| ApiError::new(ErrorCode::InvalidRequest, message);
    let Query(query) = query.map_err(|_| {
        refuse("the query cannot be read; it may have `limit` and `before`, each once".into())
    })?;
    let limit = match query.limit.as_deref().unwrap_or_default() {
        "" => DEFAULT_LIMIT,
        limit => limit
            .parse()
            .ok()
            .filter(|limit| (1..=MAX_LIMIT).contains(limit))
            .ok_or_else(|| refuse(format!("`limit`: 1 to {MAX_LIMIT} are allowed")))?,
    };
    let before = match query.before.as_deref().unwrap_or_default() {
        "" => None,
        text => {
            let read = read_cursor(text);
            Some(read.ok_or_else(|| refuse("`before`: must be the `next` of another page".into()))?)
        }
    };
    Ok(Json(queen.list(limit, before).await?))
}

impl Queen {
    async fn list(&self, limit: usize, before: Option<(u64, JobId)>) -> Result<JobList, ApiError> {
        let mut found = self.found(limit + 1, before.as_ref());
        let more = found.len() > limit;
        found.truncate(limit);
        let last = found.last().filter(|_| more);
        let next = last.map(|job| format!("{}-{}", job.created_ms, job.id));
        let jobs =
            stream::iter(found).map(|job| self.summary(job)).buffered(ASKED_AT_ONCE).try_collect().await?;
        Ok(JobList { jobs, next })
    }

    /// The newest jobs that are on the list of whoever asks, and older than `before`.
    fn found(&self, limit: usize, before: Option<&(u64, JobId)>) -> Vec<Found> {
        let lists = |owner: Option<&str>| self.asker.lists(owner);
        let register = self.durable().map(|durable| &durable.register);
        let entered = register.map(|register| register.newest(before, limit, lists));
        let mut found: Vec<Found> = entered.into_iter().flatten().map(Found::from).collect();
        let is_older = |job: &Found| before.is_none_or(|(at, id)| (job.created_ms, &job.id) < (*at, id));
        let remembered = self.shared.table.all().into_iter().filter(|record| lists(record.owner.as_deref()));
        let remembered = remembered.map(|record| Found {
            id: record.id.clone(),
            created_ms: record.about.created_ms,
            about: Some(record.about.clone()),
            status: Some(record.view().status),
        });
        // One that failed on the core path may have been sent again as a durable one.
        let is_entered = |job: &Found| register.is_some_and(|register| register.knows(&job.id));
        found.extend(remembered.filter(|job| is_older(job) && !is_entered(job)));
        found.sort_by(|a, b| (b.created_ms, &b.id).cmp(&(a.created_ms, &a.id)));
        found.truncate(limit);
        found
    }

    async fn summary(&self, job: Found) -> Result<JobSummary, ApiError> {
        let Found { id, created_ms, about, status } = job;
        let status = match (status, self.durable()) {
            (Some(status), _) => status,
            (None, Some(durable)) => {
                let log = durable.find(&id).await?;
                let last = log.as_ref().and_then(|log| log.last.as_ref()).map(|last| &last.event);
                if let Some(end) = last.filter(|event| event.kind.is_terminal()) {
                    // It need not be asked for again.
                    durable.register.ended(end);
                }
                log.map_or(JobStatus::Queued, |log| log.view().status)
            }
            (None, None) => JobStatus::Queued,
        };
        let (operation, model, prompt) = match about {
            Some(about) => (Some(about.capability.operation().to_owned()), about.model, Some(about.prompt)),
            None => (None, None, None),
        };
        Ok(JobSummary { job_id: id, status, operation, model, created_ms, prompt })
    }
}

impl From<Entered> for Found {
    fn from(job: Entered) -> Self {
        let Entered { ticket, created_ms, ended } = job;
        Self { id: ticket.job_id, created_ms, about: ticket.about, status: ended }
    }
}

/// The age of the last job of a page.
fn read_cursor(text: &str) -> Option<(u64, JobId)> {
    let (at, id) = text.split_once('-')?;
    Some((at.parse().ok()?, JobId::new(id).ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_page_says_where_the_next_begins() {
        let id = JobId::generate();
        assert_eq!(read_cursor(&format!("1700-{id}")), Some((1700, id)));
        for bad in ["", "1700", "-x", "x-y", "1700-a/b", "1700-"] {
            assert_eq!(read_cursor(bad), None, "{bad}");
        }
    }
}
