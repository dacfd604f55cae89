//! What is done otherwise on a GPU through CUDA than on candle's operations ([`plain`](super::plain)): convolutions
//! through cuDNN, and small uploads that are the same each time.

#[cfg(feature = "cudnn")]
pub mod conv;

use candle_core::Device;

/// As long as this lives, dimensions and strides that candle's kernels are told come from copies on the GPU that an
/// earlier call made: the host does not upload them anew. What is computed meanwhile must upload no numbers of its own,
/// for every small upload is kept for good, by what is in it.
pub fn keep_uploads(device: &Device) -> Option<impl Sized + use<>> {
    match device {
        Device::Cuda(device) => Some(device.enable_cuda_graph_htod_cache()),
        _ => None,
    }
}
