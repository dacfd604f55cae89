//! What can go wrong while a checkpoint is read and a picture is computed.

use std::path::PathBuf;

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
    #[error("{}: not a JSON object: {reason}", file.display())]
    Json {
        /// The file.
        file: PathBuf,
        /// Why.
        reason: String,
    },
    /// A value in a configuration file that we cannot use.
    #[error("{}: `{key}`: expected {expected}, found {found}", file.display())]
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
    /// A component has no weights in a format that is read.
    #[error("{}: no safetensors weights: expected {expected}, found {found}", folder.display())]
    NoWeights {
        /// The component's folder.
        folder: PathBuf,
        /// The file names that are read.
        expected: String,
        /// What is there instead, and why it is not used.
        found: String,
    },
    /// A safetensors file that is damaged or hostile.
    #[error("{}: not a valid safetensors file: {source}", file.display())]
    Safetensors {
        /// The file.
        file: PathBuf,
        /// Why.
        #[source]
        source: safetensors::SafeTensorError,
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
    #[error("{}: `{key}`: expected shape {expected:?}, found {found:?}", file.display())]
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
    #[error("{}: `{key}`: expected F16, BF16, F32 or F64, found {found}", file.display())]
    TensorType {
        /// The file.
        file: PathBuf,
        /// The tensor's name.
        key: String,
        /// Its type.
        found: String,
    },
    /// A tokenizer that cannot be built or used.
    #[error("{}: {reason}", file.display())]
    Tokenizer {
        /// The file.
        file: PathBuf,
        /// Why.
        reason: String,
    },
    /// A key of a LoRA that cannot be used with this model.
    #[error("`loras[{index}].path`: {file}: `{key}`: expected {expected}, found {found}")]
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

    /// The code on the wire.
    pub fn code(&self) -> ErrorCode {
        match self {
            Self::Read { .. }
            | Self::Json { .. }
            | Self::Config { .. }
            | Self::NoWeights { .. }
            | Self::Safetensors { .. }
            | Self::MissingTensor { .. }
            | Self::TensorShape { .. }
            | Self::TensorType { .. }
            | Self::Tokenizer { .. } => ErrorCode::Internal,
            Self::Request { .. } | Self::Lora { .. } => ErrorCode::InvalidRequest,
            Self::Operation(_) => ErrorCode::UnsupportedOperation,
            Self::NonFinite { .. } => ErrorCode::NonFinite,
            Self::Compute(error) if says_out_of_memory(&error.to_string()) => ErrorCode::OutOfMemory,
            Self::Compute(_) => ErrorCode::Internal,
        }
    }

    /// Whether the device failed, and not what was computed on it: nothing can be computed on it any more.
    pub fn is_of_device(&self) -> bool {
        matches!(self, Self::Compute(error) if says_device_failed(&error.to_string()))
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
