//! The largest values that configurations may hold. Shapes of weights are compared with what a file has; these bound what
//! no weight shows, and what many small weights would multiply to: a picture's maps, and the time that it takes.
//!
//! Each is several times what any published model has.

/// Bytes of a configuration file, or of an index of weights; the longest published ones have 200 KB.
pub const MAX_CONFIG_BYTES: u64 = 16 << 20;
/// Bytes of a file of a tokenizer; the longest published ones have 20 MB.
pub const MAX_TOKENIZER_BYTES: u64 = 64 << 20;
/// Blocks of a network, each but the last of which halves its maps: pixels per latent, along a side, are at most 128.
pub const MAX_BLOCKS: usize = 8;
/// Layers of a block, or of a network without blocks.
pub const MAX_LAYERS: usize = 256;
/// Channels of a denoiser's maps.
pub const MAX_CHANNELS: usize = 1 << 13;
/// Channels of an autoencoder's maps, which are as large as the picture.
pub const MAX_VAE_CHANNELS: usize = 1 << 11;
/// Channels of a latent.
pub const MAX_LATENT_CHANNELS: usize = 1 << 7;
/// Width of an embedding, or of a layer inside.
pub const MAX_WIDTH: usize = 1 << 16;
/// Heads of an attention; scores of a long prompt are kept for each.
pub const MAX_HEADS: usize = 1 << 9;
/// Tokens of a prompt, or of a chunk of one.
pub const MAX_POSITIONS: usize = 1 << 10;
/// Side of a convolution's kernel.
pub const MAX_KERNEL: usize = 9;
/// Side of the latents that a model was trained on.
pub const MAX_SAMPLE: usize = 1 << 11;
/// Buckets of distances between tokens.
pub const MAX_BUCKETS: usize = 1 << 10;
/// What latents are multiplied by is between one by this and this, and what is added to them is below it.
pub const MAX_SCALING: f64 = 1e4;
