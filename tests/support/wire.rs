//! The names of durable jobs on the wire, spelt out as another program spells them.

/// The subject of a durable job, which ends with its id: the server keeps one message of it.
pub fn job(prefix: &str, capability: &str, model: &str, id: &str) -> String {
    format!("{prefix}.jobs.image.{capability}.{model}.{id}")
}

/// The durable consumer of the jobs that ask this of a model.
pub fn consumer(capability: &str, model: &str) -> String {
    format!("{capability}-{model}")
}

/// The subject of a job's dead letter.
pub fn dead_letter(prefix: &str, capability: &str, id: &str) -> String {
    format!("{prefix}.dlq.{capability}.{id}")
}
