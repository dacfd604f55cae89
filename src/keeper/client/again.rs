//! When a question is asked once more: after a pause that grows and is never the same for two keepers, or when it was said
//! to; until a limit has gone by since queen was last heard.

use std::time::{Duration, Instant};

use super::KeeperError;
use crate::units::random_unit;

/// The first pause; it doubles.
const FIRST_PAUSE: Duration = Duration::from_millis(200);
/// The longest pause that nobody asked for.
const LONGEST_PAUSE: Duration = Duration::from_secs(2);

/// The pauses of one question.
#[derive(Debug)]
pub struct Again {
    limit: Duration,
    heard: Instant,
    pause: Duration,
}

impl Again {
    /// Counts from now.
    pub fn new(limit: Duration) -> Self {
        Self { limit, heard: Instant::now(), pause: FIRST_PAUSE }
    }

    /// Queen was heard: the limit counts from here.
    pub fn heard(&mut self) {
        self.heard = Instant::now();
    }

    /// Something came of it: pauses are short again.
    pub fn got_on(&mut self) {
        self.pause = FIRST_PAUSE;
    }

    /// Tells the error to `told` and waits; gives it back where the limit would go by.
    pub async fn wait(&mut self, error: KeeperError, told: impl Fn(&KeeperError)) -> Result<(), KeeperError> {
        let pause = pause(self.pause, error.retry_after(), random_unit());
        if self.heard.elapsed() + pause > self.limit {
            return Err(error);
        }
        told(&error);
        self.pause = (self.pause * 2).min(LONGEST_PAUSE);
        tokio::time::sleep(pause).await;
        Ok(())
    }
}

/// The pause by our own reckoning: half of it to all of it. Where another was asked for, that one and a little more: whoever
/// was told the same does not come back at the same moment.
fn pause(own: Duration, asked: Option<Duration>, random: f64) -> Duration {
    match asked {
        None => own.mul_f64(0.5 + random / 2.0),
        Some(asked) => asked + own.mul_f64(random),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pause_that_was_asked_for_is_kept() {
        let second = Duration::from_secs(1);
        assert_eq!(pause(second, None, 0.0), second / 2);
        assert_eq!(pause(second, None, 1.0), second);
        for random in [0.0, 0.5, 1.0] {
            let asked = pause(second, Some(7 * second), random);
            assert!(asked >= 7 * second && asked <= 8 * second, "{asked:?}");
        }
    }

    #[tokio::test]
    async fn past_the_limit_the_error_is_given_back() {
        let error = || KeeperError::Refused { status: 503, message: "busy".into(), after: None };
        assert!(Again::new(Duration::ZERO).wait(error(), |_| {}).await.is_err());
        assert!(Again::new(Duration::from_secs(9)).wait(error(), |_| {}).await.is_ok());
        let late = KeeperError::Refused {
            status: 429,
            message: "busy".into(),
            after: Some(Duration::from_secs(3600)),
        };
        assert!(Again::new(Duration::from_secs(9)).wait(late, |_| {}).await.is_err());
    }
}
