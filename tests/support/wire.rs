//! The names of durable jobs on the wire, spelt out as another program spells them.

/// Whether a job's subject ends with its id (so that the server keeps one message of it), a consumer is for one
/// capability of one model, and a dead letter's subject ends with the job's id.
pub const NAMES_HAVE_THE_JOB: bool = false;

/// The subject of a durable job.
pub fn job(prefix: &str, capability: &str, model: &str, id: &str) -> String {
    let subject = format!("{prefix}.jobs.image.{capability}.{model}");
    if NAMES_HAVE_THE_JOB { format!("{subject}.{id}") } else { subject }
}

/// The durable consumer of the jobs that ask this of a model.
pub fn consumer(capability: &str, model: &str) -> String {
    if NAMES_HAVE_THE_JOB { format!("{capability}-{model}") } else { model.to_owned() }
}

/// The subject of a job's dead letter.
pub fn dead_letter(prefix: &str, capability: &str, id: &str) -> String {
    let subject = format!("{prefix}.dlq.{capability}");
    if NAMES_HAVE_THE_JOB { format!("{subject}.{id}") } else { subject }
}
