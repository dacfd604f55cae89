//! GET /v1/events: the events of many jobs, and the fleet, on one stream.
//!
//! A page has six connections to a server at most, over HTTP/1.1; a stream for each of its jobs would leave none for the rest.

use std::io;

use axum::{
    extract::{Query, rejection::QueryRejection},
    http::HeaderMap,
    response::Response,
};
use bytes::Bytes;
use futures::{StreamExt, stream::BoxStream};
use serde::Deserialize;
use serde_json::json;

use super::{
    ApiError, Cursor, Heard, Told, Watch, Watched,
    routes::{Asked, LAST_EVENT_ID, flag},
    sse::{Text, Writer, keep_alive, response, unnumbered},
};
use crate::contract::{ErrorCode, JobId};

/// The most jobs of one stream.
pub const MAX_WATCHED: usize = 64;

/// What may stand behind the `?`.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct EventsQuery {
    jobs: Option<String>,
    fleet: Option<String>,
    images: Option<String>,
    cursor: Option<String>,
}

pub(super) async fn events<J: Watch>(
    Asked(shared): Asked<J>,
    headers: HeaderMap,
    query: Result<Query<EventsQuery>, QueryRejection>,
) -> Result<Response, ApiError> {
    let Query(query) = query.map_err(|_| {
        refuse("the query cannot be read; it may have `jobs`, `fleet`, `images` and `cursor`, each once")
    })?;
    let jobs = jobs(query.jobs.as_deref().unwrap_or_default())?;
    let fleet = flag("fleet", query.fleet.as_deref(), false)?;
    if jobs.is_empty() && !fleet {
        return Err(refuse("`jobs`: name one job at least, or ask for the fleet by `fleet=1`"));
    }
    let mut cursor = cursor(&headers, query.cursor.as_deref())?;
    cursor.retain(&jobs);
    let with_picture = flag("images", query.images.as_deref(), false)?;
    let told = shared.jobs.watch(Watched { jobs, fleet, cursor: cursor.clone() })?;
    let writer = Writer { jobs: shared.jobs, pictures: shared.pictures, with_picture };
    Ok(response(keep_alive(text(writer, told, cursor))))
}

/// What is sent, in parts.
fn text<J: Watch>(writer: Writer<J>, told: BoxStream<'static, Told>, mut cursor: Cursor) -> Text {
    let with_id = told.map(move |told| {
        let Told::Job(Heard::Event(event)) = &told else { return (None, told) };
        let before = cursor.clone();
        cursor.told(event);
        ((before != cursor).then(|| cursor.to_string()), told)
    });
    let lines = with_id.then(move |(id, told)| {
        let writer = writer.clone();
        async move {
            match told {
                Told::Job(Heard::Event(event)) => writer.event(id, &event).await,
                Told::Job(Heard::Queued(queued)) => unnumbered(&queued),
                Told::Unknown(job) => unnumbered(&json!({ "type": "unknown", "job_id": job })),
                Told::Fleet(workers) => fleet(workers),
            }
        }
    });
    lines.flatten().boxed()
}

/// The workers, which may be megabytes: one copy for all who are told.
fn fleet(workers: Bytes) -> Text {
    let parts = [Bytes::from_static(b"event: fleet\ndata: "), workers, Bytes::from_static(b"\n\n")];
    futures::stream::iter(parts.map(Ok::<_, io::Error>)).boxed()
}

/// The jobs that a text names, each once.
fn jobs(text: &str) -> Result<Vec<JobId>, ApiError> {
    let mut jobs = vec![];
    for name in text.split(',').map(str::trim).filter(|name| !name.is_empty()) {
        let job =
            JobId::new(name).map_err(|_| refuse("`jobs`: ids of jobs are read, separated by commas"))?;
        if jobs.contains(&job) {
            continue;
        }
        if jobs.len() == MAX_WATCHED {
            return Err(refuse(&format!("`jobs`: at most {MAX_WATCHED} jobs may be on one stream")));
        }
        jobs.push(job);
    }
    Ok(jobs)
}

/// Where the client was. A browser that connects again by itself says it in a header, which is newer than its address.
fn cursor(headers: &HeaderMap, asked: Option<&str>) -> Result<Cursor, ApiError> {
    let (name, text) = match headers.get(LAST_EVENT_ID).filter(|value| !value.is_empty()) {
        Some(value) => ("Last-Event-ID", value.to_str().unwrap_or("?")),
        None => ("cursor", asked.unwrap_or_default()),
    };
    match text.trim() {
        "" => Ok(Cursor::default()),
        text => Cursor::parse(text)
            .ok_or_else(|| refuse(&format!("`{name}`: must be the `id` of an event of such a stream"))),
    }
}

fn refuse(message: &str) -> ApiError {
    ApiError::new(ErrorCode::InvalidRequest, message)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn jobs_are_named_once_each_and_are_so_many() {
        let named = |text: &str| jobs(text).map(|jobs| jobs.len()).map_err(|error| error.message);
        assert_eq!((named(""), named(" a,b,,a ,c,")), (Ok(0), Ok(3)));
        let many = |number: usize| (0..number).map(|n| format!("j{n}")).collect::<Vec<_>>().join(",");
        assert_eq!(named(&many(MAX_WATCHED)), Ok(MAX_WATCHED));
        for bad in [many(MAX_WATCHED + 1), "a/b".into()] {
            assert!(named(&bad).unwrap_err().starts_with("`jobs`"), "{bad:.20}");
        }
    }

    #[test]
    fn the_header_of_a_client_that_connects_again_is_newer_than_its_address() {
        let header =
            |text: &str| HeaderMap::from_iter([(LAST_EVENT_ID.parse().unwrap(), text.parse().unwrap())]);
        let none = Cursor::default().to_string();
        for (headers, asked, named) in [
            (HeaderMap::new(), Some("17"), Some("`cursor`")),
            (header("17"), Some(none.as_str()), Some("`Last-Event-ID`")),
            (header(&none), Some("17"), None),
            (header(""), None, None),
            (HeaderMap::new(), Some(""), None),
        ] {
            let read = cursor(&headers, asked).map_err(|error| error.message);
            match named {
                None => assert_eq!(read, Ok(Cursor::default())),
                Some(name) => assert!(read.unwrap_err().starts_with(name)),
            }
        }
    }
}
