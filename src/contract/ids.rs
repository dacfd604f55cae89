//! Identifiers: valid once built, so that a subject or a store key made of one cannot be abused.

use std::{borrow::Cow, fmt, str::FromStr};

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::{Deserialize, Serialize};

use super::ContractError;

/// The longest identifier, in characters.
pub const MAX_ID: usize = 128;

fn check(field: &str, value: &str) -> Result<(), ContractError> {
    if value.is_empty() || value.len() > MAX_ID {
        return Err(ContractError::field(
            field,
            format!("{} characters; 1 to {MAX_ID} are allowed", value.chars().count()),
        ));
    }
    match value.chars().find(|c| !(c.is_ascii_alphanumeric() || matches!(c, '-' | '_'))) {
        Some(bad) => {
            Err(ContractError::field(field, format!("{bad:?} is not allowed; only A-Z a-z 0-9 - _ are")))
        }
        None => Ok(()),
    }
}

macro_rules! identifier {
    ($(#[$meta:meta])* $name:ident, $field:literal) => {
        $(#[$meta])*
        #[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
        #[serde(try_from = "String", into = "String")]
        pub struct $name(String);

        impl JsonSchema for $name {
            fn inline_schema() -> bool {
                true
            }

            fn schema_name() -> Cow<'static, str> {
                stringify!($name).into()
            }

            fn json_schema(_: &mut SchemaGenerator) -> Schema {
                json_schema!({ "type": "string", "pattern": "^[A-Za-z0-9_-]{1,128}$" })
            }
        }

        impl $name {
            /// Checks the characters and the length (1..=128 of `A-Z a-z 0-9 - _`).
            pub fn new(value: impl Into<String>) -> Result<Self, ContractError> {
                let value = value.into();
                check($field, &value)?;
                Ok(Self(value))
            }

            /// The identifier as text.
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl TryFrom<String> for $name {
            type Error = ContractError;
            fn try_from(value: String) -> Result<Self, ContractError> {
                Self::new(value)
            }
        }

        impl From<$name> for String {
            fn from(id: $name) -> Self {
                id.0
            }
        }

        impl FromStr for $name {
            type Err = ContractError;
            fn from_str(value: &str) -> Result<Self, ContractError> {
                Self::new(value)
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }
    };
}

identifier!(
    /// A job's identifier and idempotency key.
    JobId,
    "job_id"
);
identifier!(
    /// A worker's identifier: one token of a subject.
    WorkerId,
    "worker_id"
);
identifier!(
    /// The hive a worker belongs to.
    HiveId,
    "hive_id"
);

impl JobId {
    /// A new identifier (UUIDv7: it sorts by time, to the millisecond). Its other 74 bits are random, so that whoever
    /// knows an id cannot guess the next one.
    pub fn generate() -> Self {
        // `Uuid::now_v7` counts up within a millisecond.
        let now = uuid::Timestamp::now(uuid::NoContext);
        Self(uuid::Uuid::new_v7(now).to_string())
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;

    #[test]
    fn ids_of_one_millisecond_share_nothing_but_the_time() {
        let ids: Vec<u128> =
            (0..1000).map(|_| uuid::Uuid::parse_str(JobId::generate().as_str()).unwrap().as_u128()).collect();
        let low = |id: u128| id & ((1 << 62) - 1);
        let middle = |id: u128| (id >> 64) & 0xfff;
        let mut tails: Vec<u128> = ids.iter().map(|id| low(*id)).collect();
        tails.sort_unstable();
        // Of 1000 random numbers of 62 bits no two come within 2^20 of each other, but once in millions of runs.
        assert!(tails.windows(2).all(|pair| pair[1] - pair[0] > 1 << 20), "{tails:x?}");
        let middles: HashSet<u128> = ids.iter().map(|id| middle(*id)).collect();
        assert!(middles.len() > 500, "12 more bits are random: {} of 1000 differ", middles.len());
    }

    #[test]
    fn an_identifier_cannot_leave_its_token() {
        for bad in ["", "a/b", "a b", "a.b", "*", ">", "..", "ä", &"x".repeat(129)] {
            assert!(JobId::new(bad).is_err(), "{bad:?}");
        }
        assert!(JobId::new("x".repeat(128)).is_ok());
        assert!(JobId::new(JobId::generate().as_str()).is_ok());
    }
}
