//! Subjects, built in one place, under a configurable prefix.

use super::{Capability, ContractError, JobId, WorkerId};

/// Builds every subject of the contract under one prefix (tests use one each).
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Subjects {
    /// Empty, or ends with a dot.
    prefix: String,
}

impl Subjects {
    /// `prefix` is empty or one or more tokens (`A-Z a-z 0-9 - _`) separated by dots.
    pub fn new(prefix: &str) -> Result<Self, ContractError> {
        if prefix.is_empty() {
            return Ok(Self::default());
        }
        for token in prefix.split('.') {
            WorkerId::new(token).map_err(|_| {
                ContractError::field(
                    "subject_prefix",
                    format!("`{prefix}`: tokens of A-Z a-z 0-9 - _ separated by dots are allowed"),
                )
            })?;
        }
        Ok(Self { prefix: format!("{prefix}.") })
    }

    /// `image.generate`, `image.transform`, `image.inpaint`: any worker with a free slot.
    pub fn image(&self, capability: Capability) -> String {
        format!("{}image.{capability}", self.prefix)
    }

    /// `image.*`: a door for every capability.
    pub fn image_any(&self) -> String {
        format!("{}image.*", self.prefix)
    }

    /// `worker.<id>.image.<capability>`: that worker alone.
    pub fn direct(&self, worker: &WorkerId, capability: Capability) -> String {
        format!("{}worker.{worker}.image.{capability}", self.prefix)
    }

    /// `worker.<id>.image.*`: what a worker subscribes to.
    pub fn direct_any(&self, worker: &WorkerId) -> String {
        format!("{}worker.{worker}.image.*", self.prefix)
    }

    /// `events.<job>`: every event but previews.
    pub fn events(&self, job: &JobId) -> String {
        format!("{}events.{job}", self.prefix)
    }

    /// `previews.<job>`.
    pub fn previews(&self, job: &JobId) -> String {
        format!("{}previews.{job}", self.prefix)
    }

    /// `events.*`: what the stream of events captures.
    pub fn events_any(&self) -> String {
        format!("{}events.*", self.prefix)
    }

    /// `queued.<job>`: the ticket of a durable job.
    pub fn ticket(&self, job: &JobId) -> String {
        format!("{}queued.{job}", self.prefix)
    }

    /// `queued.*`: what the stream of events captures.
    pub fn ticket_any(&self) -> String {
        format!("{}queued.*", self.prefix)
    }

    /// `jobs.image.<capability>.<model>.<job_id>`: a durable job for a worker with that model. The stream keeps one message
    /// on a subject, so a job is in the queue once.
    pub fn jobs(&self, capability: Capability, model: &str, job: &JobId) -> String {
        format!("{}jobs.image.{capability}.{}.{job}", self.prefix, model_token(model))
    }

    /// `jobs.image.<capability>.<model>.*`: what the consumer of a capability and model waits for.
    pub fn jobs_of(&self, capability: Capability, model: &str) -> String {
        format!("{}jobs.image.{capability}.{}.*", self.prefix, model_token(model))
    }

    /// `jobs.image.*.*.<job_id>`: a job in the queue, whatever it asks for.
    pub fn job_in_queue(&self, job: &JobId) -> String {
        format!("{}jobs.image.*.*.{job}", self.prefix)
    }

    /// `jobs.image.<capability>.*.*` of every capability: what the stream of jobs captures. What asks for another is not
    /// taken, which its sender is told.
    pub fn jobs_any(&self) -> Vec<String> {
        Capability::ALL.map(|capability| format!("{}jobs.image.{capability}.*.*", self.prefix)).into()
    }

    /// `jobs.image.*.*`: what it captured in versions before a job's subject named the job.
    pub fn jobs_without_id(&self) -> String {
        format!("{}jobs.image.*.*", self.prefix)
    }

    /// What the subject of a durable job says: the capability, if there is one of that name, the model's token, and the
    /// job, unless it is no identifier or the subject is one of those without.
    pub fn parse_job(&self, subject: &str) -> (Option<Capability>, Option<String>, Option<JobId>) {
        let rest = subject.strip_prefix(&self.prefix).and_then(|rest| rest.strip_prefix("jobs.image."));
        let mut tokens = rest.into_iter().flat_map(|rest| rest.split('.'));
        let capability = tokens.next().and_then(|token| token.parse().ok());
        let model = tokens.next().map(str::to_owned);
        (capability, model, tokens.next().and_then(|token| JobId::new(token).ok()))
    }

    /// `dlq.<capability>.<job_id>`: the dead letter of a job.
    pub fn dead_letter(&self, capability: &str, job: &JobId) -> String {
        format!("{}dlq.{capability}.{job}", self.prefix)
    }

    /// `dlq.*.<job_id>`: the dead letters of a job.
    pub fn dead_letters_of(&self, job: &JobId) -> String {
        format!("{}dlq.*.{job}", self.prefix)
    }

    /// The dead letter of the job that came on this subject; what stands there for no capability is kept apart.
    pub fn dead_letter_of(&self, jobs_subject: &str, job: &JobId) -> String {
        let capability = self.parse_job(jobs_subject).0;
        self.dead_letter(capability.map_or("unknown", Capability::token), job)
    }

    /// `dlq.*.*`: what the stream of dead letters captures.
    pub fn dead_letters_any(&self) -> String {
        format!("{}dlq.*.*", self.prefix)
    }

    /// `dlq.*`: what it captured in versions before a letter's subject named the job.
    pub fn dead_letters_without_id(&self) -> String {
        format!("{}dlq.*", self.prefix)
    }

    /// The name of a stream under this prefix: `JOBS`, or `<prefix>-JOBS` with the prefix' dots as `_`.
    pub fn stream(&self, name: &str) -> String {
        match self.prefix.strip_suffix('.') {
            None => name.to_owned(),
            Some(prefix) => format!("{}-{name}", prefix.replace('.', "_")),
        }
    }

    /// `control.job.<job>.cancel`.
    pub fn cancel(&self, job: &JobId) -> String {
        format!("{}control.job.{job}.cancel", self.prefix)
    }

    /// `control.job.*.cancel`: what a worker subscribes to.
    pub fn cancel_any(&self) -> String {
        format!("{}control.job.*.cancel", self.prefix)
    }

    /// `worker.<id>.heartbeat`.
    pub fn heartbeat(&self, worker: &WorkerId) -> String {
        format!("{}worker.{worker}.heartbeat", self.prefix)
    }

    /// `worker.*.heartbeat`: what queen subscribes to.
    pub fn heartbeat_any(&self) -> String {
        format!("{}worker.*.heartbeat", self.prefix)
    }

    /// `worker.<id>.control`: what an operator tells that worker.
    pub fn control(&self, worker: &WorkerId) -> String {
        format!("{}worker.{worker}.control", self.prefix)
    }

    /// Whether a subject is one of the pool's own, of whatever kind.
    pub fn owns(&self, subject: &str) -> bool {
        const KINDS: [&str; 8] =
            ["image", "worker", "events", "previews", "queued", "jobs", "dlq", "control"];
        let kind = subject.strip_prefix(&self.prefix).and_then(|rest| rest.split('.').next());
        kind.is_some_and(|kind| KINDS.contains(&kind))
    }

    /// The capability that a request subject (`image.*` or `worker.*.image.*`) stands for.
    pub fn capability_of(&self, subject: &str) -> Option<Capability> {
        let rest = subject.strip_prefix(&self.prefix)?;
        let mut tokens = rest.split('.').rev();
        let capability = tokens.next()?.parse().ok()?;
        (tokens.next()? == "image").then_some(capability)
    }

    /// The job that a cancel subject names.
    pub fn job_of_cancel(&self, subject: &str) -> Option<JobId> {
        let rest = subject.strip_prefix(&self.prefix)?;
        JobId::new(rest.strip_prefix("control.job.")?.strip_suffix(".cancel")?).ok()
    }
}

/// A model's name as one token of a subject: what is not `A-Z a-z 0-9 - _` becomes `-`.
pub fn model_token(model: &str) -> String {
    let allowed = |c: char| if c.is_ascii_alphanumeric() || matches!(c, '-' | '_') { c } else { '-' };
    model.chars().map(allowed).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_subject_says_which_capability_it_is_for() {
        let subjects = Subjects::new("test.a1").unwrap();
        let worker = WorkerId::new("w1").unwrap();
        for capability in Capability::ALL {
            assert_eq!(subjects.capability_of(&subjects.image(capability)), Some(capability));
            assert_eq!(subjects.capability_of(&subjects.direct(&worker, capability)), Some(capability));
        }
        assert_eq!(subjects.capability_of("image.generate"), None);
        assert_eq!(subjects.capability_of("test.a1.image.upscale"), None);
    }

    #[test]
    fn a_durable_job_goes_where_its_model_is_waited_for() {
        let subjects = Subjects::new("t.a").unwrap();
        let job = JobId::new("j").unwrap();
        let subject = subjects.jobs(Capability::Inpaint, "org/sdxl 1.0", &job);
        assert_eq!(subject, "t.a.jobs.image.inpaint.org-sdxl-1-0.j");
        assert_eq!(
            subjects.jobs_of(Capability::Inpaint, "org/sdxl 1.0"),
            "t.a.jobs.image.inpaint.org-sdxl-1-0.*"
        );
        let model = || Some("org-sdxl-1-0".to_owned());
        assert_eq!(subjects.parse_job(&subject), (Some(Capability::Inpaint), model(), Some(job.clone())));
        assert_eq!(subjects.parse_job("t.a.jobs.image.upscale.m.j").0, None);
        assert_eq!(subjects.parse_job("t.a.jobs.image.inpaint.org-sdxl-1-0").2, None);
        assert_eq!(subjects.parse_job("jobs.image.inpaint.x.j"), (None, None, None));
        assert_eq!(subjects.dead_letter_of(&subject, &job), "t.a.dlq.inpaint.j");
        assert_eq!(subjects.dead_letter_of("t.a.jobs.image.upscale.m.j", &job), "t.a.dlq.unknown.j");
        assert_eq!(
            (subjects.stream("JOBS"), Subjects::default().stream("JOBS")),
            ("t_a-JOBS".into(), "JOBS".into())
        );
    }

    #[test]
    fn every_subject_is_the_pools_own() {
        let (job, worker) = (JobId::generate(), WorkerId::new("w").unwrap());
        for prefix in ["", "p.q"] {
            let subjects = Subjects::new(prefix).unwrap();
            for own in [
                subjects.image(Capability::Generate),
                subjects.direct(&worker, Capability::Generate),
                subjects.events(&job),
                subjects.previews(&job),
                subjects.ticket(&job),
                subjects.jobs(Capability::Generate, "m", &job),
                subjects.dead_letter("generate", &job),
                subjects.cancel(&job),
                subjects.heartbeat(&worker),
                subjects.control(&worker),
            ] {
                assert!(subjects.owns(&own), "{own}");
                assert!(!Subjects::new("other").unwrap().owns(&own), "{own}");
            }
        }
    }

    #[test]
    fn a_prefix_is_tokens_separated_by_dots() {
        assert!(Subjects::new("").is_ok());
        assert!(Subjects::new("a.b-c").is_ok());
        for bad in ["a.", ".a", "a..b", "a.*", "a b", ">"] {
            assert!(Subjects::new(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn the_job_of_a_cancel_is_read_back() {
        let subjects = Subjects::new("p").unwrap();
        let job = JobId::generate();
        assert_eq!(subjects.job_of_cancel(&subjects.cancel(&job)), Some(job));
        assert_eq!(subjects.job_of_cancel("p.control.job.a.b.cancel"), None);
    }
}
