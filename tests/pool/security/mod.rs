//! What SECURITY.md says is defended, on real servers with real processes.

mod advice;
mod browsers;
mod owners;
mod permissions;
pub mod processes;
pub mod queen;
mod replies;
mod rotation;
mod secrets;
mod sign_in;
pub mod users;
