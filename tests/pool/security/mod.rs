//! What SECURITY.md says is defended, on real servers with real processes.

mod permissions;
mod processes;
mod queen;
mod replies;
mod secrets;
mod sign_in;
mod users;
