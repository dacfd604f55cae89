//! Pictures in base64, written while they are read: of each answer one picture is in memory, and no more of its base64
//! than what is being sent.

use std::io;

use base64::{Engine as _, engine::general_purpose::STANDARD};
use bytes::Bytes;
use futures::{Stream, StreamExt, TryStreamExt, stream, stream::BoxStream};
use serde_json::Value;

use super::{Foreign, refusal::Failure};
use crate::{contract::JobId, http::Picture};

/// What is sent, in parts.
pub(super) type Parts = BoxStream<'static, io::Result<Bytes>>;

impl Foreign {
    /// Reads a picture of a job, when it is its turn.
    ///
    /// # Errors
    /// It cannot be read.
    pub(super) async fn picture(&self, id: &JobId, index: usize) -> Result<Picture, Failure> {
        let index = u32::try_from(index).unwrap_or(u32::MAX);
        let read = self.pictures.read(&self.queen, id, index).await;
        read.map_err(|error| Failure { error, job: Some(id.clone()) })
    }

    /// Pictures `1..count` of a job, each as `write` has it. The first one was read before the answer was begun, so that
    /// a store that is away is said in words; one that cannot be read behind it breaks the answer off.
    pub(super) fn rest<W: Fn(usize, Picture) -> Parts + Send + 'static>(
        &self,
        id: &JobId,
        count: usize,
        write: W,
    ) -> Parts {
        let (foreign, id) = (self.clone(), id.clone());
        let pictures = stream::iter(1..count).then(move |index| {
            let (foreign, id) = (foreign.clone(), id.clone());
            async move {
                let picture = foreign.picture(&id, index).await;
                picture.map(|picture| (index, picture)).map_err(|failure| {
                    tracing::warn!(job_id = %id, index, error = %failure.error, "an answer is broken off");
                    io::Error::other(failure.error)
                })
            }
        });
        pictures.map_ok(move |(index, picture)| write(index, picture)).try_flatten().boxed()
    }
}

/// An object whose last member is a picture in base64. Base64 has nothing that JSON would escape.
pub(super) fn object_with(object: &Value, member: &str, picture: Picture, end: &'static str) -> Parts {
    let mut open = object.to_string();
    open.truncate(open.len() - 1);
    let comma = if open.len() > 1 { "," } else { "" };
    text(format!("{open}{comma}\"{member}\":\""))
        .chain(picture.parts().map_ok(|part| Bytes::from(STANDARD.encode(part))))
        .chain(text(format!("\"}}{end}")))
        .boxed()
}

/// A text that is sent in one part.
pub(super) fn text(text: impl Into<Bytes>) -> impl Stream<Item = io::Result<Bytes>> + Send {
    stream::iter([Ok(text.into())])
}
