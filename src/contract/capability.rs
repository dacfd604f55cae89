//! The three things a worker can do, and their names on the wire.

use std::{fmt, str::FromStr};

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// A capability of a worker: one subject, one value of the `operation` tag.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Capability {
    /// Text to image.
    Generate,
    /// Image to image.
    Transform,
    /// Repaint what a mask selects.
    Inpaint,
}

impl Capability {
    /// Every capability, in the order of the contract.
    pub const ALL: [Self; 3] = [Self::Generate, Self::Transform, Self::Inpaint];

    /// The last token of the subject: `generate`, `transform`, `inpaint`.
    pub fn token(self) -> &'static str {
        match self {
            Self::Generate => "generate",
            Self::Transform => "transform",
            Self::Inpaint => "inpaint",
        }
    }

    /// The value of the `operation` tag in a body.
    pub fn operation(self) -> &'static str {
        match self {
            Self::Generate => "image_generation",
            Self::Transform => "image_transform",
            Self::Inpaint => "image_inpaint",
        }
    }

    /// The capability whose `operation` tag this is.
    pub fn from_operation(tag: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|c| c.operation() == tag)
    }
}

impl fmt::Display for Capability {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.token())
    }
}

impl FromStr for Capability {
    type Err = String;

    fn from_str(s: &str) -> Result<Self, Self::Err> {
        Self::ALL
            .into_iter()
            .find(|c| c.token() == s)
            .ok_or_else(|| format!("`{s}` is no capability; there are generate, transform, inpaint"))
    }
}
