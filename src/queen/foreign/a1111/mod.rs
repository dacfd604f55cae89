//! AUTOMATIC1111's API, as its clients send and read it: pictures from words and from pictures, how far they are, the lists
//! that clients ask for when they start. Sizes, samplers and masks mean what they mean there; pictures are ours.
//!
//! | file | what lives there |
//! |---|---|
//! | `endpoints` | where they are, and what is said of them |
//! | `wish` | the fields of a request, as a job |
//! | `switched` | what was switched on and cannot be done |
//! | `prompt` | `<lora:name:weight>`, cut out |
//! | `samplers` | their samplers and schedulers, and ours |
//! | `pool` | models and LoRAs, by the names that clients have for them |
//! | `start` | pictures and masks to start from |
//! | `draw` | txt2img and img2img |
//! | `answer` | pictures, echo and `info` in one object |
//! | `info` | what `info` says |
//! | `png` | the texts of a PNG, and what they say |
//! | `clients` | what each client has under way, and its model |
//! | `progress` | progress, interrupt and skip |
//! | `options` | the options that clients read and set |
//! | `lists` | everything that is only listed |
//! | `refusal` | errors as A1111 has them |
//!
//! Not here: upscalers, ControlNet, scripts, high-resolution passes. They are listed as absent, and refused by name.

mod answer;
mod clients;
mod draw;
mod endpoints;
mod info;
mod lists;
mod options;
mod png;
mod pool;
mod progress;
mod prompt;
mod refusal;
mod samplers;
mod start;
mod switched;
mod wish;

use self::clients::Clients;
use super::Foreign;

pub(in crate::queen) use endpoints::endpoints;
pub(super) use refusal::{refusal, speaks};

/// What these endpoints have. Cheap to clone.
#[derive(Clone)]
pub(in crate::queen) struct A1111 {
    foreign: Foreign,
    clients: Clients,
}

impl A1111 {
    /// Nobody has called yet.
    pub fn new(foreign: Foreign) -> Self {
        Self { foreign, clients: Clients::default() }
    }
}

/// Whether a path is one of A1111's, where errors have its form.
pub(super) fn has(path: &str) -> bool {
    path == "/sdapi" || path.starts_with("/sdapi/") || path == "/internal/ping"
}

/// Whether a request to a path that is sent by POST asks for no job: it is counted with those that only look.
pub(in crate::queen) fn only_looks(path: &str) -> bool {
    has(path) && !matches!(path, "/sdapi/v1/txt2img" | "/sdapi/v1/img2img")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn polling_is_no_job_and_drawing_is_one() {
        for path in ["/sdapi/v1/interrupt", "/sdapi/v1/options", "/sdapi/v1/png-info", "/internal/ping"] {
            assert!(has(path) && only_looks(path), "{path}");
        }
        for path in ["/sdapi/v1/txt2img", "/sdapi/v1/img2img"] {
            assert!(has(path) && !only_looks(path), "{path}");
        }
        assert!(!has("/v1/jobs") && !has("/sdapix") && !only_looks("/v1/jobs"));
    }
}
