//! The part of a schedule in which a job is guided (Kynkäänniemi et al. 2024, "Applying Guidance in a Limited Interval
//! Improves Sample and Distribution Quality in Diffusion Models").

use super::ContractError;

/// Two fractions of the schedule: at least 0, at most 1, the first below the second. Valid once built.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct GuidanceInterval {
    from: f64,
    to: f64,
}

impl GuidanceInterval {
    /// From the first fraction on, up to the second, which is no part of it.
    ///
    /// # Errors
    /// A fraction out of bounds, or a first one that is not below the second.
    pub fn new([from, to]: [f64; 2]) -> Result<Self, ContractError> {
        if from >= 0.0 && from < to && to <= 1.0 {
            return Ok(Self { from, to });
        }
        let reason = format!(
            "[{from}, {to}] is none; [from, to] with 0 <= from < to <= 1 is allowed, for example [0.1, 0.8]"
        );
        Err(ContractError::field("guidance_interval", reason))
    }

    /// Whether step `step`, counted from 0, of `steps` is guided. These are the steps that a job asks for, also where a
    /// scheduler evaluates the network more than once for one: a bound never falls inside a step.
    pub fn contains(self, step: usize, steps: usize) -> bool {
        // A quotient, not a product: 7 of 100 is at 0.07 to the bit, 0.07 of 100 is above 7.
        let at = step as f64 / steps as f64;
        self.from <= at && at < self.to
    }

    /// As a request has it.
    pub fn bounds(self) -> [f64; 2] {
        [self.from, self.to]
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::contract::{Capability, Job, Limits, Operation};

    fn guided(bounds: [f64; 2], steps: usize) -> Vec<usize> {
        let interval = GuidanceInterval::new(bounds).unwrap();
        (0..steps).filter(|step| interval.contains(*step, steps)).collect()
    }

    #[test]
    fn a_step_is_guided_from_the_first_fraction_on_and_up_to_the_second() {
        assert_eq!(guided([0.2, 0.8], 10), [2, 3, 4, 5, 6, 7]);
        assert_eq!(guided([0.0, 1.0], 4), [0, 1, 2, 3]);
        assert_eq!(guided([0.07, 0.29], 100), (7..29).collect::<Vec<_>>());
        assert!(guided([0.9, 1.0], 4).is_empty());
    }

    #[test]
    fn the_field_is_refused_by_its_name() {
        let error = |bounds: &str| {
            let body = format!(r#"{{"prompt":"a","guidance_interval":{bounds}}}"#);
            let operation = Operation::parse(Some(Capability::Generate), body.as_bytes());
            operation.and_then(|operation| Job::new(operation, &Limits::default())).err().unwrap().to_string()
        };
        for bad in [
            "[0.8,0.1]",
            "[0.5,0.5]",
            "[-0.1,0.5]",
            "[0.5,1.5]",
            "[]",
            "[0.5]",
            "[0,0.5,1]",
            "0.5",
            "[\"a\",1]",
        ] {
            assert!(error(bad).starts_with("`guidance_interval"), "{bad}: {}", error(bad));
        }
        assert!(error("[0.8,0.1]").contains("from < to"));
        assert!(GuidanceInterval::new([f64::NAN, 1.0]).is_err());
        assert!(GuidanceInterval::new([0.0, f64::NAN]).is_err());
    }

    #[test]
    fn a_job_carries_it_and_its_fingerprint_sees_it() {
        let read = |body: &str| Operation::parse(Some(Capability::Inpaint), body.as_bytes()).unwrap();
        let fields = r#""prompt":"a","job_id":"j","init_image":"AA==","mask_image":"AA==""#;
        let plain = read(&format!("{{{fields}}}"));
        let limited = read(&format!(r#"{{{fields},"guidance_interval":[0.1,0.8]}}"#));
        assert_ne!(plain.fingerprint(), limited.fingerprint());
        let job = Job::new(limited, &Limits::default()).unwrap();
        assert_eq!(job.guidance_interval.unwrap().bounds(), [0.1, 0.8]);
        assert_eq!(Job::new(plain, &Limits::default()).unwrap().guidance_interval, None);
    }
}
