//! The table of every endpoint of queen. The router and /openapi.json are both made of it.

use std::sync::LazyLock;

use axum::{
    Router,
    extract::{DefaultBodyLimit, FromRef},
    http::header::CONTENT_TYPE,
};
use serde_json::Value;

use super::{
    Queen, durable,
    foreign::{A1111, Foreign, a1111_endpoints, openai_endpoints},
    list, metrics, page, workers,
};
use crate::{
    contract::{ErrorBody, WebhookBody},
    http::{
        JobsState, RouteLimits,
        endpoint::{Endpoints, JSON, described, of},
        fallback, job_endpoints,
        openapi::{About, document},
        watch_endpoints,
    },
};

/// Where the document is.
pub(super) const DOCUMENT: &str = "/openapi.json";

const ABOUT: About = About {
    title: "queen-rbee",
    description: "The front of a pool of image workers. A job is sent by POST /v1/jobs and followed on its stream; \
                  the other groups are what programs for other servers send, and become jobs of the same kind.\n\n\
                  Every endpoint may answer with 401 (a token is asked for), 403 (a browser on another site asks), \
                  429 (too many requests; `Retry-After` says when) and 503 (NATS is away, or nobody has a free slot).",
    webhooks: &[(
        "job",
        "An event of a job, posted to its `webhook_url`, signed as Standard Webhooks says.",
        of::<WebhookBody>,
    )],
};

/// What the endpoints have, each what it needs of it. Cheap to clone.
#[derive(Clone)]
pub(super) struct Front {
    queen: Queen,
    jobs: JobsState<Queen>,
    foreign: Foreign,
    a1111: A1111,
}

impl FromRef<Front> for Queen {
    fn from_ref(front: &Front) -> Self {
        front.queen.clone()
    }
}

impl FromRef<Front> for JobsState<Queen> {
    fn from_ref(front: &Front) -> Self {
        front.jobs.clone()
    }
}

impl FromRef<Front> for Foreign {
    fn from_ref(front: &Front) -> Self {
        front.foreign.clone()
    }
}

impl FromRef<Front> for A1111 {
    fn from_ref(front: &Front) -> Self {
        front.a1111.clone()
    }
}

fn table() -> Vec<Endpoints<Front>> {
    vec![
        job_endpoints::<Queen, Front>(),
        list::endpoints(),
        watch_endpoints::<Queen, Front>(),
        durable::endpoints(),
        workers::endpoints(),
        metrics::endpoints(),
        openai_endpoints(),
        a1111_endpoints(),
        page::endpoints(),
        of_the_document(),
    ]
}

/// All endpoints, and what is answered where there is none.
pub(super) fn routes(queen: Queen, limits: RouteLimits) -> Router {
    let max_body = limits.max_body;
    let foreign = Foreign::new(queen.clone(), &limits);
    let front = Front {
        jobs: JobsState::new(queen.clone(), limits),
        a1111: A1111::new(foreign.clone()),
        queen,
        foreign,
    };
    let all = table().into_iter().map(Endpoints::into_router).fold(Router::new(), Router::merge);
    fallback(all.layer(DefaultBodyLimit::max(max_body)).with_state(front))
}

/// The OpenAPI document of all endpoints, which is in `schemas/openapi.json` too.
pub fn openapi() -> Value {
    document(&ABOUT, &table())
}

fn of_the_document() -> Endpoints<Front> {
    let anything = |_: &mut _| schemars::json_schema!({"type": "object"});
    Endpoints::new("Document", of::<ErrorBody>).get(
        DOCUMENT,
        || async {
            static TEXT: LazyLock<String> = LazyLock::new(|| openapi().to_string());
            ([(CONTENT_TYPE, JSON)], TEXT.as_str())
        },
        described("openapi", "This document.").gives(200, "the document", anything).for_all(),
    )
}
