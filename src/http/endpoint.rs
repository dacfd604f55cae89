//! An endpoint: where it is, who answers, and what there is to say of it. A list of endpoints makes the router and the OpenAPI
//! document, so that neither has what the other lacks.

use std::borrow::Cow;

use axum::{
    Router,
    handler::Handler,
    http::Method,
    routing::{MethodFilter, MethodRouter, on},
};
use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde_json::json;

/// JSON.
pub const JSON: &str = "application/json";
/// Server-sent events.
pub const EVENT_STREAM: &str = "text/event-stream";

/// Makes a schema; of a type of the contract by [`of`].
pub type SchemaOf = fn(&mut SchemaGenerator) -> Schema;

/// The schema of a type.
pub fn of<T: JsonSchema>(generator: &mut SchemaGenerator) -> Schema {
    generator.subschema_for::<T>()
}

/// The schema of a text.
pub fn text(_: &mut SchemaGenerator) -> Schema {
    json_schema!({"type": "string"})
}

/// The schema of what a query says by 1 or 0.
pub fn switch(_: &mut SchemaGenerator) -> Schema {
    json_schema!({"type": "string", "enum": ["0", "1"]})
}

/// The schema of each event of a stream, whose `data` is JSON of this type.
pub fn events_of<T: JsonSchema>(generator: &mut SchemaGenerator) -> Schema {
    let data = generator.subschema_for::<T>();
    let (text, json) = (
        json!({"type": "string"}),
        json!({"type": "string", "contentMediaType": JSON, "contentSchema": data}),
    );
    json_schema!({"type": "object", "properties": {"id": text, "event": text, "data": json}})
}

/// The schema of what is no JSON.
pub fn bytes(_: &mut SchemaGenerator) -> Schema {
    json_schema!({})
}

/// Endpoints of one kind, over the state `S`.
pub struct Endpoints<S> {
    pub(super) kind: Kind,
    list: Vec<Endpoint<S>>,
}

/// What endpoints have in common.
#[derive(Clone)]
pub(super) struct Kind {
    /// The heading that they stand under.
    pub name: &'static str,
    /// The form of their errors.
    pub error: SchemaOf,
}

struct Endpoint<S> {
    said: Said,
    handler: MethodRouter<S>,
}

/// What the document says of an endpoint.
#[derive(Clone)]
pub(super) struct Said {
    pub method: Method,
    pub path: Cow<'static, str>,
    pub description: Description,
}

impl<S: Clone + Send + Sync + 'static> Endpoints<S> {
    /// None yet. `name` is the heading that they stand under, `error` the form of their errors.
    pub fn new(name: &'static str, error: SchemaOf) -> Self {
        Self { kind: Kind { name, error }, list: vec![] }
    }

    fn with(
        mut self,
        method: Method,
        path: Cow<'static, str>,
        handler: MethodRouter<S>,
        description: Description,
    ) -> Self {
        self.list.push(Endpoint { said: Said { method, path, description }, handler });
        self
    }

    /// One more that is read.
    pub fn get<H, T>(self, path: impl Into<Cow<'static, str>>, handler: H, description: Description) -> Self
    where
        H: Handler<T, S>,
        T: 'static,
    {
        self.with(Method::GET, path.into(), on(MethodFilter::GET, handler), description)
    }

    /// One more that something is sent to.
    pub fn post<H, T>(self, path: impl Into<Cow<'static, str>>, handler: H, description: Description) -> Self
    where
        H: Handler<T, S>,
        T: 'static,
    {
        self.with(Method::POST, path.into(), on(MethodFilter::POST, handler), description)
    }

    /// One more that something is taken from.
    pub fn delete<H, T>(
        self,
        path: impl Into<Cow<'static, str>>,
        handler: H,
        description: Description,
    ) -> Self
    where
        H: Handler<T, S>,
        T: 'static,
    {
        self.with(Method::DELETE, path.into(), on(MethodFilter::DELETE, handler), description)
    }

    /// One more that says what there is.
    pub fn options<H, T>(
        self,
        path: impl Into<Cow<'static, str>>,
        handler: H,
        description: Description,
    ) -> Self
    where
        H: Handler<T, S>,
        T: 'static,
    {
        self.with(Method::OPTIONS, path.into(), on(MethodFilter::OPTIONS, handler), description)
    }

    /// The router of these.
    pub fn into_router(self) -> Router<S> {
        let add = |router: Router<S>, Endpoint { said, handler }| router.route(&said.path, handler);
        self.list.into_iter().fold(Router::new(), add)
    }

    pub(super) fn said(&self) -> impl Iterator<Item = &Said> {
        self.list.iter().map(|endpoint| &endpoint.said)
    }
}

/// What is said of an endpoint.
#[derive(Clone)]
pub struct Description {
    pub(super) id: Cow<'static, str>,
    pub(super) summary: &'static str,
    pub(super) parameters: Vec<Parameter>,
    /// Media types of a body, and their schemas.
    pub(super) bodies: Vec<(&'static str, SchemaOf)>,
    pub(super) answers: Vec<Answer>,
    /// Errors that are its own, by their status.
    pub(super) errors: &'static [u16],
    pub(super) is_for_all: bool,
}

#[derive(Clone)]
pub(super) struct Parameter {
    pub place: &'static str,
    pub name: &'static str,
    pub says: &'static str,
    pub schema: SchemaOf,
}

#[derive(Clone)]
pub(super) struct Answer {
    pub status: u16,
    pub says: &'static str,
    /// Media types, and their schemas.
    pub content: Vec<(&'static str, SchemaOf)>,
}

/// Describes an endpoint: the name that programs have for it, and what it does.
pub fn described(id: impl Into<Cow<'static, str>>, summary: &'static str) -> Description {
    let (parameters, bodies, answers) = (vec![], vec![], vec![]);
    Description { id: id.into(), summary, parameters, bodies, answers, errors: &[], is_for_all: false }
}

impl Description {
    fn parameter(
        mut self,
        place: &'static str,
        name: &'static str,
        says: &'static str,
        schema: SchemaOf,
    ) -> Self {
        self.parameters.push(Parameter { place, name, says, schema });
        self
    }

    /// With a part of the path.
    pub fn path(self, name: &'static str, says: &'static str, schema: SchemaOf) -> Self {
        self.parameter("path", name, says, schema)
    }

    /// With a field of the query.
    pub fn query(self, name: &'static str, says: &'static str, schema: SchemaOf) -> Self {
        self.parameter("query", name, says, schema)
    }

    /// With a header that is read.
    pub fn header(self, name: &'static str, says: &'static str, schema: SchemaOf) -> Self {
        self.parameter("header", name, says, schema)
    }

    /// With a body in JSON.
    pub fn takes(self, schema: SchemaOf) -> Self {
        self.takes_as(JSON, schema)
    }

    /// With a body of this media type.
    pub fn takes_as(mut self, media: &'static str, schema: SchemaOf) -> Self {
        self.bodies.push((media, schema));
        self
    }

    /// Answers with JSON.
    pub fn gives(self, status: u16, says: &'static str, schema: SchemaOf) -> Self {
        self.gives_as(status, says, &[JSON], schema)
    }

    /// Answers with one of these media types; with none, with a status alone.
    pub fn gives_as(
        mut self,
        status: u16,
        says: &'static str,
        media: &[&'static str],
        schema: SchemaOf,
    ) -> Self {
        let content = media.iter().map(|media| (*media, schema));
        match self.answers.iter_mut().find(|answer| answer.status == status) {
            Some(answer) => answer.content.extend(content),
            None => self.answers.push(Answer { status, says, content: content.collect() }),
        }
        self
    }

    /// Answers with errors of these statuses, beside those that every endpoint may answer with.
    pub fn errs(mut self, statuses: &'static [u16]) -> Self {
        self.errors = statuses;
        self
    }

    /// Asks for no token.
    pub fn for_all(mut self) -> Self {
        self.is_for_all = true;
        self
    }
}
