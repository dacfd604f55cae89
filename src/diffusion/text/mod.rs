//! Text before the networks: tokenizers, the syntax of prompts, and what was encoded last.

mod clip_tokenizer;
mod embedding_cache;
pub mod prompt;
mod qwen_tokenizer;
mod t5_tokenizer;
mod vocabulary;
mod whole;

pub use clip_tokenizer::{ClipTokenizer, Tokens, Vocabulary};
pub use embedding_cache::{EmbeddingCache, EmbeddingKey};
pub use qwen_tokenizer::QwenTokenizer;
pub use t5_tokenizer::T5Tokenizer;
