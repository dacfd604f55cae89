//! W3C trace context: which trace a request is of, and which span of it asked (<https://www.w3.org/TR/trace-context/>).

use std::fmt;

/// Bit of the flags: whoever asked records the trace.
const SAMPLED: u8 = 1;
/// `00-`, 32 digits, `-`, 16 digits, `-`, 2 digits. Later versions may put more behind it.
const LENGTH: usize = 55;

/// A trace, and a span of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TraceContext {
    /// The trace; not 0.
    pub trace: u128,
    /// The span; not 0.
    pub span: u64,
    /// Whether spans of it are recorded.
    pub is_sampled: bool,
}

impl TraceContext {
    /// Reads a `traceparent`. What is none of these is as good as not sent: `None`.
    pub fn parse(text: &str) -> Option<Self> {
        let text = text.trim();
        let (known, rest) = text.split_at_checked(LENGTH)?;
        let mut parts = known.split('-');
        let (version, trace, span, flags) = (parts.next()?, parts.next()?, parts.next()?, parts.next()?);
        let is_hex = |text: &str, length| {
            text.len() == length && text.bytes().all(|c| matches!(c, b'0'..=b'9' | b'a'..=b'f'))
        };
        let is_right = is_hex(version, 2)
            && is_hex(trace, 32)
            && is_hex(span, 16)
            && is_hex(flags, 2)
            && version != "ff"
            && (rest.is_empty() || (version != "00" && rest.starts_with('-')));
        if !is_right {
            return None;
        }
        let trace = u128::from_str_radix(trace, 16).ok().filter(|trace| *trace != 0)?;
        let span = u64::from_str_radix(span, 16).ok().filter(|span| *span != 0)?;
        let flags = u8::from_str_radix(flags, 16).ok()?;
        Some(Self { trace, span, is_sampled: flags & SAMPLED != 0 })
    }

    /// A trace that begins here.
    pub fn begin(is_sampled: bool) -> Self {
        let [high, low] = [random(), random()];
        Self { trace: u128::from(high) << 64 | u128::from(low), span: random(), is_sampled }
    }

    /// A new span of the same trace.
    #[must_use]
    pub fn child(&self) -> Self {
        Self { span: random(), ..*self }
    }

    /// The trace's name in logs and tools: 32 hexadecimal digits.
    pub fn trace_id(&self) -> String {
        format!("{:032x}", self.trace)
    }
}

/// As a `traceparent`.
impl fmt::Display for TraceContext {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "00-{:032x}-{:016x}-{:02x}", self.trace, self.span, u8::from(self.is_sampled))
    }
}

/// A number that is not 0. Where the system gives none, the hasher's keys do: names of traces are no secrets.
fn random() -> u64 {
    use std::hash::{BuildHasher, RandomState};

    let mut bytes = [0; 8];
    let number = match getrandom::fill(&mut bytes) {
        Ok(()) => u64::from_ne_bytes(bytes),
        Err(_) => RandomState::new().hash_one(bytes),
    };
    number.max(1)
}

#[cfg(test)]
mod tests {
    use super::*;

    const TRACE: &str = "4bf92f3577b34da6a3ce929d0e0e4736";

    #[test]
    fn a_traceparent_is_read_as_the_standard_says() {
        let good = format!("00-{TRACE}-00f067aa0ba902b7-01");
        let read = TraceContext::parse(&good).unwrap();
        assert_eq!((read.trace_id().as_str(), read.is_sampled), (TRACE, true));
        assert_eq!(read.to_string(), good);
        let later = TraceContext::parse(&format!("cc-{TRACE}-00f067aa0ba902b7-00-more")).unwrap();
        assert!(!later.is_sampled);
        for bad in [
            String::new(),
            "00".into(),
            format!("ff-{TRACE}-00f067aa0ba902b7-01"),
            format!("00-{TRACE}-00f067aa0ba902b7-01-more"),
            format!("cc-{TRACE}-00f067aa0ba902b7-01.more"),
            format!("00-{TRACE}-0000000000000000-01"),
            format!("00-{}-00f067aa0ba902b7-01", "0".repeat(32)),
            format!("00-{}-00f067aa0ba902b7-01", TRACE.to_uppercase()),
            format!("00-{TRACE}-00f067aa0ba902b7-0g"),
            format!("00_{TRACE}_00f067aa0ba902b7_01"),
            "é".repeat(60),
        ] {
            assert_eq!(TraceContext::parse(&bad), None, "{bad}");
        }
    }

    #[test]
    fn a_child_is_another_span_of_the_same_trace() {
        let parent = TraceContext::begin(true);
        let child = parent.child();
        assert_eq!((child.trace, child.is_sampled), (parent.trace, true));
        assert_ne!(child.span, parent.span);
        assert_eq!(TraceContext::parse(&child.to_string()), Some(child));
    }
}
