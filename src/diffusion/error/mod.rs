//! What can go wrong while a checkpoint is read and a picture is computed.

mod file_kind;
mod lora_file;

use std::{
    borrow::Cow,
    path::{Path, PathBuf},
};

pub use file_kind::{BEGINNING, FileKind, what_is, why_no_safetensors};
pub use lora_file::{LoraFileError, MAX_LORA_BYTES};

use crate::contract::ErrorCode;

/// An error of this module. Errors of a checkpoint name the file and the key, what was expected and what was found.
#[derive(Debug, thiserror::Error)]
pub enum DiffusionError {
    /// A file of the checkpoint cannot be read.
    #[error("{}: {source}", file.display())]
    Read {
        /// The file.
        file: PathBuf,
        /// Why.
        #[source]
        source: std::io::Error,
    },
    /// A configuration file is no JSON object.
    #[error("{}: not a JSON object: {}", file.display(), shown(reason))]
    Json {
        /// The file.
        file: PathBuf,
        /// Why.
        reason: String,
    },
    /// A value in a configuration file that we cannot use.
    #[error("{}: `{}`: expected {expected}, found {}", file.display(), shown(key), shown(found))]
    Config {
        /// The file.
        file: PathBuf,
        /// The key in it.
        key: String,
        /// What can be used.
        expected: String,
        /// What is there.
        found: String,
    },
    /// A folder that is no pipeline's.
    #[error("{}: no model_index.json: expected a folder in the diffusers layout, found {}", folder.display(), shown(found))]
    NoIndex {
        /// The folder.
        folder: PathBuf,
        /// What is there instead.
        found: String,
    },
    /// A component has no weights in a format that is read.
    #[error("{}: no safetensors weights: expected {expected}, found {}", folder.display(), shown(found))]
    NoWeights {
        /// The component's folder.
        folder: PathBuf,
        /// The file names that are read.
        expected: String,
        /// What is there instead, and why it is not used.
        found: String,
    },
    /// A safetensors file that is damaged or hostile.
    #[error("{}: not a valid safetensors file: {}", file.display(), shown(&source.to_string()))]
    Safetensors {
        /// The file.
        file: PathBuf,
        /// Why.
        #[source]
        source: safetensors::SafeTensorError,
    },
    /// Something else in the place of a safetensors file, or not all of it.
    #[error("{}: not a valid safetensors file: {kind}", file.display())]
    Foreign {
        /// The file.
        file: PathBuf,
        /// What it is.
        kind: FileKind,
    },
    /// A tensor that the configuration calls for is not in the file.
    #[error("{}: `{key}`: expected a tensor of shape {expected:?}, found none", file.display())]
    MissingTensor {
        /// The file.
        file: PathBuf,
        /// The tensor's name.
        key: String,
        /// The shape it should have.
        expected: Vec<usize>,
    },
    /// A tensor has another shape than the configuration calls for.
    #[error("{}: `{key}`: expected shape {expected:?}, found {}", file.display(), shown(&format!("{found:?}")))]
    TensorShape {
        /// The file.
        file: PathBuf,
        /// The tensor's name.
        key: String,
        /// The shape it should have.
        expected: Vec<usize>,
        /// The shape it has.
        found: Vec<usize>,
    },
    /// A tensor is of a type that is no floating point number we read.
    #[error("{}: `{key}`: expected F16, BF16, F32, F64, F8_E4M3 or F8_E5M2, found {found}", file.display())]
    TensorType {
        /// The file.
        file: PathBuf,
        /// The tensor's name.
        key: String,
        /// Its type.
        found: String,
    },
    /// A tokenizer that cannot be built or used.
    #[error("{}: {}", file.display(), shown(reason))]
    Tokenizer {
        /// The file.
        file: PathBuf,
        /// Why.
        reason: String,
    },
    /// A key of a LoRA that cannot be used with this model.
    #[error("`loras[{index}].path`: {file}: `{}`: expected {expected}, found {}", shown(key), shown(found))]
    Lora {
        /// Which of the job's LoRAs.
        index: usize,
        /// Its name.
        file: String,
        /// The key in it.
        key: String,
        /// What can be used.
        expected: String,
        /// What is there.
        found: String,
    },
    /// A file of a LoRA that cannot be used whatever the model is.
    #[error("`loras[{index}].path`: {file}: {source}")]
    LoraFile {
        /// Which of the job's LoRAs.
        index: usize,
        /// Its name.
        file: String,
        /// Why.
        #[source]
        source: LoraFileError,
    },
    /// A tensor of a textual inversion that cannot be used with this model.
    #[error("`{field}`: embedding {name}: `{}`: expected {expected}, found {}", shown(key), shown(found))]
    Embedding {
        /// The prompt that names it.
        field: &'static str,
        /// Its name.
        name: String,
        /// The key in its file.
        key: String,
        /// What can be used.
        expected: String,
        /// What is there.
        found: String,
    },
    /// A file of a textual inversion that cannot be used whatever the model is.
    #[error("`{field}`: embedding {name}: {source}")]
    EmbeddingFile {
        /// The prompt that names it.
        field: &'static str,
        /// Its name.
        name: String,
        /// Why.
        #[source]
        source: LoraFileError,
    },
    /// A request that this model cannot serve; the field is named as on the wire.
    #[error("`{field}`: {reason}")]
    Request {
        /// The field of the request.
        field: &'static str,
        /// What is wrong with it, and what is possible.
        reason: String,
    },
    /// The model cannot do this operation (its UNet takes other inputs).
    #[error("`operation`: {0}")]
    Operation(String),
    /// A picture was handed to another model than the one that began it.
    #[error("the picture was begun with another model")]
    OtherModel,
    /// NaN or infinity.
    #[error("{what} at step {step} of {total} are not finite (NaN or infinity)")]
    NonFinite {
        /// What was checked: latents or pixels.
        what: &'static str,
        /// Steps done.
        step: u32,
        /// Steps in all.
        total: u32,
    },
    /// The tensor library failed: memory of the device, or a defect of ours.
    #[error("computing failed: {0}")]
    Compute(#[source] candle_core::Error),
}

impl From<candle_core::Error> for DiffusionError {
    /// Without the backtrace that candle adds where RUST_BACKTRACE is set: what is said here goes to whoever sent the job.
    fn from(mut error: candle_core::Error) -> Self {
        while let candle_core::Error::WithBacktrace { inner, .. } = error {
            error = *inner;
        }
        Self::Compute(error)
    }
}

impl DiffusionError {
    /// A request's field that cannot be served.
    pub(crate) fn request(field: &'static str, reason: impl Into<String>) -> Self {
        Self::Request { field, reason: reason.into() }
    }

    /// As whoever sent a job is told it: a file of a checkpoint by its name, with that of its component before it, without
    /// the folders of this machine.
    #[must_use]
    pub fn without_folders(mut self) -> Self {
        match &mut self {
            Self::Read { file, .. }
            | Self::Json { file, .. }
            | Self::Config { file, .. }
            | Self::NoIndex { folder: file, .. }
            | Self::NoWeights { folder: file, .. }
            | Self::Safetensors { file, .. }
            | Self::Foreign { file, .. }
            | Self::MissingTensor { file, .. }
            | Self::TensorShape { file, .. }
            | Self::TensorType { file, .. }
            | Self::Tokenizer { file, .. } => *file = in_checkpoint(file),
            Self::Lora { .. }
            | Self::LoraFile { .. }
            | Self::Embedding { .. }
            | Self::EmbeddingFile { .. }
            | Self::Request { .. }
            | Self::Operation(_)
            | Self::OtherModel
            | Self::NonFinite { .. }
            | Self::Compute(_) => {}
        }
        self
    }

    /// The code on the wire. A checkpoint that cannot be used is its worker's failure, and not the request's: another
    /// worker may have a sound copy, and nothing in the request could be mended. A LoRA is named by the request.
    pub fn code(&self) -> ErrorCode {
        match self {
            Self::LoraFile { source, .. } | Self::EmbeddingFile { source, .. } => source.code(),
            Self::Read { .. }
            | Self::Json { .. }
            | Self::Config { .. }
            | Self::NoIndex { .. }
            | Self::NoWeights { .. }
            | Self::Safetensors { .. }
            | Self::Foreign { .. }
            | Self::MissingTensor { .. }
            | Self::TensorShape { .. }
            | Self::TensorType { .. }
            | Self::Tokenizer { .. } => ErrorCode::Internal,
            Self::Request { .. } | Self::Lora { .. } | Self::Embedding { .. } => ErrorCode::InvalidRequest,
            Self::Operation(_) => ErrorCode::UnsupportedOperation,
            Self::NonFinite { .. } => ErrorCode::NonFinite,
            Self::Compute(error) if says_out_of_memory(&error.to_string()) => ErrorCode::OutOfMemory,
            Self::OtherModel | Self::Compute(_) => ErrorCode::Internal,
        }
    }

    /// Whether the device failed, and not what was computed on it: nothing can be computed on it any more.
    pub fn is_of_device(&self) -> bool {
        matches!(self, Self::Compute(error) if says_device_failed(&error.to_string()))
    }
}

/// The longest part of an error that a file has written, bytes: names in a header may have megabytes, and errors go to
/// logs and over the bus.
const MAX_SHOWN: usize = 400;

/// What a file says, as it is shown: short, and on one line.
pub(super) fn shown(text: &str) -> Cow<'_, str> {
    let short = &text[..text.floor_char_boundary(MAX_SHOWN)];
    if short.len() == text.len() && !text.contains(char::is_control) {
        return text.into();
    }
    let end = if short.len() < text.len() { "..." } else { "" };
    format!("{}{end}", short.replace(char::is_control, " ")).into()
}

/// What the folders of a checkpoint's components begin with.
const COMPONENTS: [&str; 7] =
    ["unet", "transformer", "vae", "taesd", "text_encoder", "tokenizer", "scheduler"];

/// The last part of a path, and the one before it where that is a component.
fn in_checkpoint(file: &Path) -> PathBuf {
    let name = file.file_name().map(PathBuf::from).unwrap_or_default();
    let folder = file.parent().and_then(Path::file_name);
    match folder.filter(|folder| COMPONENTS.iter().any(|known| folder.to_string_lossy().starts_with(known))) {
        Some(folder) => Path::new(folder).join(name),
        None => name,
    }
}

/// CUDA and Metal report a full device in the text of their errors only.
fn says_out_of_memory(text: &str) -> bool {
    let text = text.to_ascii_lowercase();
    text.contains("out of memory") || text.contains("out_of_memory") || text.contains("alloc_failed")
}

/// How the names of errors begin that NVIDIA's driver and libraries give, which are a part of their text.
const ERRORS_OF_CUDA: [&str; 4] = ["CUDA_ERROR_", "CUBLAS_STATUS_", "CUDNN_STATUS_", "CURAND_STATUS_"];
/// Those that refuse one call, after which the next goes well.
const ERRORS_OF_A_CALL: [&str; 12] = [
    "CUDA_ERROR_INVALID_VALUE",
    "CUDA_ERROR_INVALID_IMAGE",
    "CUDA_ERROR_INVALID_PTX",
    "CUDA_ERROR_INVALID_SOURCE",
    "CUDA_ERROR_NO_BINARY_FOR_GPU",
    "CUDA_ERROR_NOT_FOUND",
    "CUDA_ERROR_UNSUPPORTED_PTX_VERSION",
    "CUDA_ERROR_LAUNCH_OUT_OF_RESOURCES",
    "_NOT_SUPPORTED",
    "_STATUS_INVALID_VALUE",
    "_STATUS_BAD_PARAM",
    "_STATUS_ARCH_MISMATCH",
];

/// Whether the text of an error, or of a panic over one, is that of a device on which every later call fails alike: after
/// an illegal address, a launch that failed or an uncorrectable error of its memory, only a new process helps.
pub fn says_device_failed(text: &str) -> bool {
    ERRORS_OF_CUDA.iter().any(|name| text.contains(name))
        && !ERRORS_OF_A_CALL.iter().any(|name| text.contains(name))
        && !says_out_of_memory(text)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_full_device_is_told_apart_from_a_defect() {
        let full = candle_core::Error::Msg("CUDA_ERROR_OUT_OF_MEMORY: out of memory".into());
        assert_eq!(DiffusionError::from(full).code(), ErrorCode::OutOfMemory);
        let defect = candle_core::Error::Msg("shape mismatch".into());
        assert_eq!(DiffusionError::from(defect).code(), ErrorCode::Internal);
    }

    #[test]
    fn a_device_that_failed_is_told_apart_from_a_full_one_and_from_a_call_that_it_refuses() {
        let of_device = |text: &str| {
            DiffusionError::from(candle_core::Error::Cuda(text.to_owned().into())).is_of_device()
        };
        for failed in [
            r#"DriverError(CUDA_ERROR_ILLEGAL_ADDRESS, "an illegal memory access was encountered")"#,
            r#"DriverError(CUDA_ERROR_LAUNCH_FAILED, "unspecified launch failure")"#,
            r#"DriverError(CUDA_ERROR_ECC_UNCORRECTABLE, "uncorrectable ECC error encountered")"#,
            r#"DriverError(CUDA_ERROR_UNKNOWN, "unknown error") when loading affine"#,
            "CublasError(CUBLAS_STATUS_EXECUTION_FAILED)",
            "CudnnError(CUDNN_STATUS_EXECUTION_FAILED)",
        ] {
            assert!(of_device(failed), "{failed}");
        }
        for other in [
            r#"DriverError(CUDA_ERROR_OUT_OF_MEMORY, "out of memory")"#,
            r#"DriverError(CUDA_ERROR_INVALID_VALUE, "invalid argument")"#,
            r#"DriverError(CUDA_ERROR_LAUNCH_OUT_OF_RESOURCES, "too many resources requested for launch")"#,
            "CublasError(CUBLAS_STATUS_ALLOC_FAILED)",
            "CublasError(CUBLAS_STATUS_NOT_SUPPORTED)",
            "missing kernel 'affine'",
            "shape mismatch",
        ] {
            assert!(!of_device(other), "{other}");
        }
        let full = candle_core::Error::Cuda("CublasError(CUBLAS_STATUS_ALLOC_FAILED)".to_owned().into());
        assert_eq!(DiffusionError::from(full).code(), ErrorCode::OutOfMemory);
    }

    #[test]
    fn what_a_file_says_is_shown_short_and_on_one_line() {
        let hostile = format!("\u{1b}[2J\n{}", "\u{e9}".repeat(1 << 20));
        let (file, key, found) = (PathBuf::from("config.json"), hostile.clone(), hostile);
        let error = DiffusionError::Config { file, key, expected: "a number".into(), found };
        let text = error.to_string();
        assert!(text.len() < 1000 && !text.contains(char::is_control), "{}", text.len());
        assert!(text.contains("expected a number") && text.ends_with("..."), "{text}");
    }

    #[test]
    fn who_sent_a_job_is_told_of_files_by_their_names() {
        for (file, told) in [
            ("/srv/models/sd15/unet/config.json", "unet/config.json: "),
            ("/srv/models/sd15/text_encoder_2/model.safetensors", "text_encoder_2/model.safetensors: "),
            ("/srv/models/sd15/model_index.json", "model_index.json: "),
            ("/srv/models/sd15.safetensors", "sd15.safetensors: "),
            ("/srv/a.safetensors (configuration of unet)", "a.safetensors (configuration of unet): "),
        ] {
            let error = DiffusionError::Json { file: file.into(), reason: "it is empty".into() };
            let text = error.without_folders().to_string();
            assert!(text.starts_with(told), "{text}");
        }
    }

    #[test]
    fn a_backtrace_is_not_told_to_the_sender() {
        let inner = Box::new(candle_core::Error::Msg("shape mismatch".into()));
        let backtrace = Box::new(std::backtrace::Backtrace::force_capture());
        let error = DiffusionError::from(candle_core::Error::WithBacktrace { inner, backtrace });
        assert_eq!(error.to_string(), "computing failed: shape mismatch");
    }

    #[test]
    fn an_error_of_a_tensor_names_file_key_expected_and_found() {
        let error = DiffusionError::TensorShape {
            file: "unet/weights.safetensors".into(),
            key: "conv_in.weight".into(),
            expected: vec![64, 4, 3, 3],
            found: vec![64, 9, 3, 3],
        };
        let text = error.to_string();
        for part in ["unet/weights.safetensors", "conv_in.weight", "[64, 4, 3, 3]", "[64, 9, 3, 3]"] {
            assert!(text.contains(part), "{text}");
        }
    }
}
