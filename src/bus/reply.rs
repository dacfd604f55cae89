//! Where answers may go. Whoever may publish a request names the subject of its answers, and the worker publishes there
//! with its own rights: a subject that means something would be a way to use them.

use crate::contract::Subjects;

/// What every inbox begins with, whatever `--nats-inbox-prefix` its owner has.
pub(super) const INBOX: &str = "_INBOX";

/// Whether inboxes may begin so: `_INBOX`, alone or with tokens of `A-Z a-z 0-9 - _` behind it.
pub(super) fn is_inbox_prefix(prefix: &str) -> bool {
    let allowed = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_');
    let mut tokens = prefix.split('.');
    tokens.next() == Some(INBOX) && tokens.all(|token| !token.is_empty() && token.chars().all(allowed))
}

/// `_INBOX.` and tokens that are subject to no wildcard: what the header `Job-Reply` may name.
pub(super) fn is_inbox(subject: &str) -> bool {
    let rest = subject.strip_prefix(INBOX).and_then(|rest| rest.strip_prefix('.'));
    rest.is_some_and(|rest| {
        rest.split('.').all(|token| !token.is_empty())
            && rest.chars().all(|c| !c.is_whitespace() && !c.is_control() && !matches!(c, '*' | '>'))
    })
}

/// A message's own reply subject may be any that is neither the server's (the empty message after the last event
/// would be a request to `$JS.API.STREAM.PURGE.JOBS`) nor the pool's (`events.<job>` would tell lies about it).
pub(super) fn may_be_answered(subject: &str, subjects: &Subjects) -> bool {
    !subject.starts_with('$') && !subjects.owns(subject)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_an_inbox_is_one() {
        for good in ["_INBOX.abc.1", "_INBOX.queen.abc.1"] {
            assert!(is_inbox(good), "{good}");
        }
        for bad in [
            "_INBOX",
            "_INBOX.",
            "_INBOX.a..b",
            "_INBOX.>",
            "_INBOX.*",
            "_INBOX.a b",
            "_INBOX_queen.a",
            "_INBOX $SYS.a",
            "_INBO.a",
            "a_INBOX.a",
            "jobs.image.generate.x",
            "$SYS.REQ",
        ] {
            assert!(!is_inbox(bad), "{bad}");
        }
    }

    #[test]
    fn no_answer_goes_where_it_would_do_something() {
        let subjects = Subjects::new("p").unwrap();
        for good in ["_INBOX.a", "results.mine", "p.results", "events.other-pool"] {
            assert!(may_be_answered(good, &subjects), "{good}");
        }
        for bad in [
            "$JS.ACK.JOBS.m.1.2.3.4.5",
            "$JS.API.STREAM.DELETE.JOBS",
            "$SRV.PING",
            "p.events.a",
            "p.jobs.image.generate.m",
            "p.image.generate",
            "p.worker.a.heartbeat",
            "p.dlq.generate",
            "p.queued.a",
            "p.previews.a",
            "p.control.job.a.cancel",
        ] {
            assert!(!may_be_answered(bad, &subjects), "{bad}");
        }
        assert!(!may_be_answered("events.a", &Subjects::default()));
    }
}
