//! A finished picture: encoded with what made it, and put into the store.

mod encode;
mod exif;
mod infotext;
mod upload;

pub use encode::{EncodeError, encode, encode_preview};
pub(super) use upload::Upload;
