//! One job from message to acknowledgement.

pub mod encode;
pub mod inputs;
