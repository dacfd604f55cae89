//! What is told over HTTP of a job that no worker has. It is no event of the job: it has no number, and is not kept.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::JobId;

/// Where a job stands in line. Told when a stream is opened, and when it is different.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(tag = "type", rename = "queued")]
#[schemars(transform = super::schema::tag_queued)]
pub struct Queued {
    /// The job.
    pub job_id: JobId,
    /// Jobs of the same model that are to begin before it; null: that is not known.
    pub position: Option<u64>,
    /// Why no worker takes it, where one cannot be waited for with confidence.
    pub reason: Option<String>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn its_type_is_on_the_wire() {
        let queued = Queued { job_id: JobId::new("j").unwrap(), position: Some(2), reason: None };
        let text = serde_json::to_string(&queued).unwrap();
        assert_eq!(text, r#"{"type":"queued","job_id":"j","position":2,"reason":null}"#);
        assert_eq!(serde_json::from_str::<Queued>(&text).unwrap(), queued);
    }
}
