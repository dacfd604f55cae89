//! LoRA ("Low-Rank Adaptation", arXiv 2106.09685) and its kin (LoHa, LoKr, three-factor LoCon, DoRA): small matrices that
//! a job adds to a model's layers, as peft computes them unfused. They are kept apart from the weights, so that the next
//! job has the model as it was loaded.
//!
//! Files are read in kohya's format, in peft's, in LyCORIS', in XLabs', and in those of diffusers before peft.
//!
//! | file | what lives there |
//! |---|---|
//! | `loras` | the files that a model has read, and networks with them |
//! | `adapt` | from a file to the layers that it changes |
//! | `content`, `stamp` | a file's bytes, and whether it has changed |
//! | `file`, `parts`, `alphas`, `kinds` | its keys by layer, and what it is if it is none |
//! | `names` | what a layer is called in files |
//! | `word` | textual inversions: words that a file adds to text encoders |
//! | `methods` | from tensors to what is added, for each method |
//! | `delta`, `magnitude`, `changes` | what is added to a weight, its lengths, and a layer with it |

mod adapt;
mod alphas;
mod changes;
mod content;
mod delta;
mod file;
pub mod kinds;
mod loras;
mod magnitude;
mod methods;
mod names;
mod parts;
mod spec;
mod stamp;
mod word;

pub use adapt::Adaptable;
pub use changes::{Changes, LayerMut, Visit};
pub use loras::Loras;
pub use names::{LayerName, Rows};
pub use spec::{EmbeddingSpec, LoraSpec};
pub use stamp::Stamp;
pub use word::{AddedWord, TakesWords};
