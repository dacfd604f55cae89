//! What an operator tells one worker: the body of a request on `worker.<id>.control`. It is answered with the worker's
//! [`WorkerInfo`](super::WorkerInfo) as it is then, or with an [`ErrorBody`](super::ErrorBody).

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::{ContractError, nearest::nearest};

/// The longest body of a command that is read, in bytes.
pub const MAX_COMMAND: usize = 4 << 10;
/// The longest name of a model in a command, in characters.
const MAX_MODEL: usize = 256;

/// A command.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(tag = "command", rename_all = "snake_case", deny_unknown_fields)]
pub enum Command {
    /// Take no more jobs, and end those that run. The process stays, until it is told to resume or to end.
    Drain,
    /// Take jobs again.
    Resume,
    /// Bring a model into memory. It is answered when it is there.
    Load {
        /// One of the worker's models, by the name that jobs use.
        model: String,
    },
    /// Let a model's weights go, as soon as no job is drawn with them. A job that asks for it later brings it back.
    Unload {
        /// One of the worker's models, by the name that jobs use.
        model: String,
    },
    /// Send a heartbeat now.
    Status,
}

impl Command {
    /// The names of all commands.
    pub const NAMES: [&str; 5] = ["drain", "resume", "load", "unload", "status"];

    /// Reads the body of a request.
    ///
    /// # Errors
    /// The field that is wrong, with what it takes.
    pub fn parse(body: &[u8]) -> Result<Self, ContractError> {
        if body.len() > MAX_COMMAND {
            let (bytes, limit) = (body.len() as u64, MAX_COMMAND as u64);
            return Err(ContractError::TooLarge { field: "body".into(), bytes, limit });
        }
        let value: Value =
            serde_json::from_slice(body).map_err(|error| ContractError::NotJson(error.to_string()))?;
        let Value::Object(fields) = value else {
            return Err(ContractError::field("body", "must be a JSON object"));
        };
        if let Some(other) = fields.keys().find(|key| !matches!(key.as_str(), "command" | "model")) {
            return Err(ContractError::field(other, "a command has the fields command and model"));
        }
        let text = |field: &'static str| match fields.get(field) {
            None | Some(Value::Null) => Ok(None),
            Some(Value::String(text)) => Ok(Some(text.as_str())),
            Some(_) => Err(ContractError::field(field, "must be a string")),
        };
        let model = text("model")?;
        let name = text("command")?.ok_or_else(|| {
            ContractError::field("command", format!("is missing; there are: {}", Self::NAMES.join(", ")))
        })?;
        let of_model = || match model {
            Some(model) if (1..=MAX_MODEL).contains(&model.chars().count()) => Ok(model.to_owned()),
            Some(_) => Err(ContractError::field("model", format!("a name has 1 to {MAX_MODEL} characters"))),
            None => Err(ContractError::field("model", format!("is missing; `{name}` is about a model"))),
        };
        let command = match name {
            "load" => return Ok(Self::Load { model: of_model()? }),
            "unload" => return Ok(Self::Unload { model: of_model()? }),
            "drain" => Self::Drain,
            "resume" => Self::Resume,
            "status" => Self::Status,
            other => return Err(unknown(other)),
        };
        match model {
            None => Ok(command),
            Some(_) => Err(ContractError::field("model", format!("`{name}` is about no model"))),
        }
    }

    /// The command as the body of a request.
    pub fn to_json(&self) -> Vec<u8> {
        serde_json::to_vec(self).expect("a command has string keys only")
    }

    /// Its name.
    pub fn name(&self) -> &'static str {
        match self {
            Self::Drain => "drain",
            Self::Resume => "resume",
            Self::Load { .. } => "load",
            Self::Unload { .. } => "unload",
            Self::Status => "status",
        }
    }
}

fn unknown(name: &str) -> ContractError {
    let meant = nearest(name, Command::NAMES).map(|name| format!("; did you mean `{name}`?"));
    // What is repeated of it is short.
    let shown: String = name.chars().take(40).collect();
    let there_are = Command::NAMES.join(", ");
    ContractError::field("command", format!("`{shown}`: there are: {there_are}{}", meant.unwrap_or_default()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::contract::ErrorCode;

    #[test]
    fn a_command_is_read_back() {
        let model = || "tiny".to_owned();
        for command in [
            Command::Drain,
            Command::Resume,
            Command::Load { model: model() },
            Command::Unload { model: model() },
            Command::Status,
        ] {
            let body = command.to_json();
            assert_eq!(Command::parse(&body).unwrap(), command);
            assert_eq!(serde_json::from_slice::<Command>(&body).unwrap(), command);
            assert!(Command::NAMES.contains(&command.name()));
        }
    }

    #[test]
    fn what_is_no_command_is_refused_by_its_field() {
        for (body, said) in [
            ("", "not JSON"),
            ("[]", "`body`"),
            ("{}", "`command`: is missing; there are: drain, resume"),
            (r#"{"command":7}"#, "`command`: must be a string"),
            (r#"{"command":"drains"}"#, "did you mean `drain`?"),
            (r#"{"command":"delete"}"#, "there are: drain"),
            (r#"{"command":"load"}"#, "`model`: is missing"),
            (r#"{"command":"load","model":""}"#, "`model`: a name has"),
            (r#"{"command":"load","model":["a"]}"#, "`model`: must be"),
            (r#"{"command":"drain","model":"m"}"#, "`drain` is about no model"),
            (r#"{"command":"drain","force":true}"#, "`force`"),
        ] {
            let error = Command::parse(body.as_bytes()).unwrap_err();
            assert!(error.to_string().contains(said), "{body}: {error}");
            assert_eq!(error.code(), ErrorCode::InvalidRequest, "{body}");
        }
        let large = Command::parse(&vec![b' '; MAX_COMMAND + 1]).unwrap_err();
        assert_eq!(large.code(), ErrorCode::PayloadTooLarge);
    }
}
