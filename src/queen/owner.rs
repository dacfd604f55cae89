//! Whose a job is, and who may see it.
//!
//! A queen that asks for tokens keeps clients apart: a job is its sender's, by the name of the token, and for others it is as if
//! there were none. The name travels with the job (in its ticket, its message and its result), so that every queen of the pool
//! says the same. A job without a name (an earlier version took it, or a queen without tokens, or it came over NATS) is found by
//! whoever knows its id, as in a queen without tokens, and is on nobody's list but an administrator's.

use std::{convert::Infallible, sync::Arc};

use axum::{
    extract::{FromRef, FromRequestParts},
    http::request::Parts,
};

use super::{Queen, auth::Client, known::Known};
use crate::{
    contract::{ContractError, HttpCode, JobId, Operation},
    http::ApiError,
    traces,
};

/// On whose behalf queen looks at jobs.
#[derive(Debug, Clone)]
pub(super) enum Asker {
    /// There are no clients to tell apart, or queen asks on its own behalf.
    Anybody,
    /// A client, who sees its own jobs.
    Client(Arc<str>),
    /// A client who sees all.
    Admin(Arc<str>),
}

impl Asker {
    fn of(client: Option<&Client>) -> Self {
        match client {
            Some(Client::Named(name)) => Self::Client(name.clone()),
            Some(Client::Admin(name)) => Self::Admin(name.clone()),
            Some(Client::At(_)) | None => Self::Anybody,
        }
    }

    /// The name that a job of this one is kept by.
    pub fn name(&self) -> Option<String> {
        match self {
            Self::Anybody => None,
            Self::Client(name) | Self::Admin(name) => Some(name.to_string()),
        }
    }

    /// Whether a job of this owner is one that it finds by its id.
    pub fn finds(&self, owner: Option<&str>) -> bool {
        owner.is_none() || self.lists(owner)
    }

    /// Whether a job of this owner is on its list.
    pub fn lists(&self, owner: Option<&str>) -> bool {
        match self {
            Self::Anybody | Self::Admin(_) => true,
            Self::Client(name) => owner == Some(&**name),
        }
    }

    /// Whether there are jobs that it may not see.
    pub fn is_bounded(&self) -> bool {
        matches!(self, Self::Client(_))
    }
}

impl Queen {
    /// This queen, as a client may see it.
    pub(super) fn on_behalf_of(&self, client: Option<&Client>) -> Self {
        Self { shared: self.shared.clone(), asker: Asker::of(client), trace: traces::of_request() }
    }
}

impl Queen {
    /// Refuses a picture of a job that whoever asks may not see as an input of another.
    ///
    /// # Errors
    /// The field that names it, in the same words as where there is no such job.
    pub(super) async fn refuse_others_pictures(&self, operation: &mut Operation) -> Result<(), ApiError> {
        if !self.asker.is_bounded() {
            return Ok(());
        }
        for (field, image) in operation.images_mut() {
            let of_a_job = image.strip_prefix("object:jobs/").and_then(|path| path.split('/').next());
            let Some(Ok(job)) = of_a_job.map(JobId::new) else { continue };
            match self.known(&job).await {
                Ok(_) => {}
                Err(error) if error.http == Some(HttpCode::NotFound) => {
                    return Err(
                        ContractError::field(field, format!("there is no picture of a job `{job}`")).into()
                    );
                }
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }
}

/// Queen, as whoever sent the request may see it.
pub(super) struct Asked(pub Queen);

impl<S: Sync> FromRequestParts<S> for Asked
where
    Queen: FromRef<S>,
{
    type Rejection = Infallible;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, Infallible> {
        Ok(Self(Queen::from_ref(state).on_behalf_of(parts.extensions.get())))
    }
}

impl Known {
    /// Whose the job is, where that is known.
    pub fn owner(&self) -> Option<&str> {
        match self {
            Self::Logged(log) => log.owner(),
            Self::Remembered(record) => record.owner.as_deref(),
            Self::Stored(result) => result.owner.as_deref(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_client_finds_its_own_jobs_and_nobodys_and_lists_its_own() {
        let asker = |client| Asker::of(Some(&client));
        let (alice, admin) = (asker(Client::Named("alice".into())), asker(Client::Admin("ops".into())));
        let anybody = asker(Client::At(std::net::Ipv4Addr::LOCALHOST.into()));
        for (asker, owner, finds, lists) in [
            (&alice, Some("alice"), true, true),
            (&alice, Some("bob"), false, false),
            (&alice, None, true, false),
            (&admin, Some("alice"), true, true),
            (&admin, None, true, true),
            (&anybody, Some("alice"), true, true),
            (&anybody, None, true, true),
        ] {
            assert_eq!((asker.finds(owner), asker.lists(owner)), (finds, lists), "{asker:?} {owner:?}");
        }
        assert_eq!((alice.name().as_deref(), anybody.name()), (Some("alice"), None));
        assert!(alice.is_bounded() && !admin.is_bounded() && !anybody.is_bounded());
    }
}
