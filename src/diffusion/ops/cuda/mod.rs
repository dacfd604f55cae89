//! What is done otherwise on a GPU through CUDA than on candle's operations ([`plain`](super::plain)): convolutions
//! through cuDNN, and small uploads that are the same each time.

#[cfg(feature = "cudnn")]
pub mod conv;

use candle_core::{CudaDevice, Device};

/// As long as this lives, dimensions and strides that candle's kernels are told come from copies on the GPU that an
/// earlier call made: the host does not upload them anew. What is computed meanwhile must upload no numbers of its own,
/// for every small upload is kept for good, by what is in it.
pub fn keep_uploads(device: &Device) -> Option<impl Sized + use<>> {
    match device {
        Device::Cuda(device) => Some(device.enable_cuda_graph_htod_cache()),
        _ => None,
    }
}

/// `cuda 9.0 NVIDIA H100 80GB HBM3`: cards of one architecture and other numbers of cores are given other kernels by
/// NVIDIA's libraries.
pub fn card(device: &CudaDevice) -> String {
    let stream = device.cuda_stream();
    let context = stream.context();
    let capability = context.compute_capability().map(|(major, minor)| format!("{major}.{minor}"));
    let known = capability.and_then(|capability| Ok((capability, context.name()?)));
    match known {
        Ok((capability, name)) => format!("cuda {capability} {name}"),
        Err(error) => format!("cuda {error}"),
    }
}
