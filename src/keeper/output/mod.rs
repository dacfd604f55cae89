//! Where pictures go. `plan` reads `--output` and looks at every place before anything is sent, `place` is one of them: a
//! file, a pipe, a device, standard output.

mod place;
mod plan;

pub use place::{Place, write_error};
pub use plan::{Plan, Wish};
