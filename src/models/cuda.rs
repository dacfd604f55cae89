//! A GPU through CUDA: how it is opened so that loading and computing are one stream, and what of its memory is free.

use std::ffi::c_void;

use candle_core::{
    CudaDevice, Device,
    cuda_backend::{
        cudarc::driver::{CudaContext, DriverError, result, sys},
        kernels,
    },
};

/// Why a GPU cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum CudaError {
    /// The driver does not start.
    #[error(
        "--device {index}: NVIDIA's driver does not start: {source}; is there a GPU, is the driver (580 or newer) loaded, \
         and may this process use it (in a container: --gpus)?"
    )]
    Driver {
        /// The index asked for.
        index: usize,
        /// What the driver says.
        #[source]
        source: DriverError,
    },
    /// There are fewer GPUs.
    #[error("--device {index}: there is no such GPU; {}", count_text(*count))]
    Index {
        /// The index asked for.
        index: usize,
        /// GPUs that there are.
        count: usize,
    },
    /// The kernels in this program are for other GPUs.
    #[error(
        "--device {index}: {name} has compute capability {}, and this program was built for {needs}: build it for this \
         GPU (CUDA_COMPUTE_CAP={}{}, or scripts/build-cuda --cap {}{})",
        dotted(*has), has.0, has.1, has.0, has.1
    )]
    Capability {
        /// The index asked for.
        index: usize,
        /// The GPU's name.
        name: String,
        /// Its compute capability, major and minor.
        has: (u32, u32),
        /// What the kernels need.
        needs: Target,
    },
    /// The GPU is there and cannot be used.
    #[error("--device {index}: {reason}")]
    Unusable {
        /// The index asked for.
        index: usize,
        /// What candle or the driver says.
        reason: String,
    },
}

/// The GPUs that kernels were built for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Target {
    /// The compute capability, major and minor.
    pub capability: (u32, u32),
    /// Whether they run on GPUs of that capability alone: `sm_90a`, as the compiler is told for 9.0.
    pub alone: bool,
}

impl Target {
    fn runs_on(self, has: (u32, u32)) -> bool {
        if self.alone { has == self.capability } else { has >= self.capability }
    }
}

impl std::fmt::Display for Target {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let which = if self.alone { "alone" } else { "and later" };
        write!(f, "{} {which}", dotted(self.capability))
    }
}

/// Bytes of a GPU's memory.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Memory {
    /// That this process can still take: what no process has, and what this one keeps and does not use.
    pub free: u64,
    /// In all.
    pub total: u64,
}

fn count_text(count: usize) -> String {
    match count {
        1 => "there is one, with index 0".into(),
        count => format!("there are {count}, with indices from 0 to {}", count - 1),
    }
}

fn dotted((major, minor): (u32, u32)) -> String {
    format!("{major}.{minor}")
}

/// Opens GPU `index`. All that is loaded and computed on it goes through one stream of its own, whichever thread asks
/// for it: candle's default is a stream for each thread, and nothing would order the loading of a model, on one, before
/// its first step, on another. With one stream, events that tell when memory is no longer used are not needed.
///
/// Memory that is freed stays with the process until [`give_back`]: by default the driver would take it back whenever
/// the host waits for the GPU, which is at every step, and map it anew.
///
/// # Errors
/// No driver, no such GPU, or one that is older than what the kernels were built for.
pub fn open(index: usize) -> Result<Device, CudaError> {
    let unusable = |reason: String| CudaError::Unusable { index, reason };
    let count = CudaContext::device_count().map_err(|source| CudaError::Driver { index, source })?;
    let count = usize::try_from(count).unwrap_or(0);
    if index >= count {
        return Err(match count {
            0 => unusable("the driver is there and knows no GPU".into()),
            count => CudaError::Index { index, count },
        });
    }
    let context = CudaContext::new(index).map_err(|error| unusable(error.to_string()))?;
    let (major, minor) = context.compute_capability().map_err(|error| unusable(error.to_string()))?;
    let has = (major.unsigned_abs(), minor.unsigned_abs());
    if let Some(needs) = target(kernels::UNARY.ptx()).filter(|needs| !needs.runs_on(has)) {
        let name = context.name().unwrap_or_else(|_| "this GPU".into());
        return Err(CudaError::Capability { index, name, has, needs });
    }
    let device = CudaDevice::new_with_stream(index).map_err(|error| unusable(error.to_string()))?;
    // SAFETY: all tensors of the device are made, used and freed on its one stream, so that none is freed or written
    // before an earlier use of it has ended.
    unsafe { device.disable_event_tracking() };
    keep_freed_memory(&device).map_err(|error| unusable(error.to_string()))?;
    Ok(Device::Cuda(device))
}

/// What of the memory of its GPU is free.
///
/// # Errors
/// What the driver says.
pub fn memory(device: &CudaDevice) -> Result<Memory, DriverError> {
    let (free, total) = device.cuda_stream().context().mem_get_info()?;
    let idle = match pool(device)? {
        Some(pool) => {
            let reserved = attribute(pool, sys::CUmemPool_attribute::CU_MEMPOOL_ATTR_RESERVED_MEM_CURRENT)?;
            let used = attribute(pool, sys::CUmemPool_attribute::CU_MEMPOOL_ATTR_USED_MEM_CURRENT)?;
            reserved.saturating_sub(used)
        }
        None => 0,
    };
    Ok(Memory { free: free as u64 + idle, total: total as u64 })
}

/// Waits until the GPU is done, and gives memory that is not in use back to it: the bytes.
///
/// # Errors
/// What the driver says.
pub fn give_back(device: &CudaDevice) -> Result<u64, DriverError> {
    let Some(pool) = pool(device)? else { return Ok(0) };
    device.cuda_stream().synchronize()?;
    let reserved = || attribute(pool, sys::CUmemPool_attribute::CU_MEMPOOL_ATTR_RESERVED_MEM_CURRENT);
    let before = reserved()?;
    // SAFETY: the pool is the device's own, which lives as long as the device.
    unsafe { result::mem_pool::trim_to(pool, 0) }?;
    Ok(before.saturating_sub(reserved()?))
}

fn keep_freed_memory(device: &CudaDevice) -> Result<(), DriverError> {
    let Some(pool) = pool(device)? else { return Ok(()) };
    let mut threshold = u64::MAX;
    let attribute = sys::CUmemPool_attribute::CU_MEMPOOL_ATTR_RELEASE_THRESHOLD;
    // SAFETY: the pool is the device's own; this attribute is an unsigned number of 64 bits.
    unsafe { result::mem_pool::set_attribute(pool, attribute, (&raw mut threshold).cast::<c_void>()) }
}

/// The pool that memory is taken from; none on a GPU that has no pools.
fn pool(device: &CudaDevice) -> Result<Option<sys::CUmemoryPool>, DriverError> {
    let stream = device.cuda_stream();
    let context = stream.context();
    let attribute = sys::CUdevice_attribute::CU_DEVICE_ATTRIBUTE_MEMORY_POOLS_SUPPORTED;
    if context.attribute(attribute)? == 0 {
        return Ok(None);
    }
    context.bind_to_thread()?;
    // SAFETY: the device is that of a living context.
    unsafe { result::device::get_mem_pool(context.cu_device()) }.map(Some)
}

fn attribute(pool: sys::CUmemoryPool, attribute: sys::CUmemPool_attribute) -> Result<u64, DriverError> {
    let mut value = 0_u64;
    // SAFETY: the pool is the device's own; both attributes asked for are unsigned numbers of 64 bits.
    unsafe { result::mem_pool::get_attribute(pool, attribute, (&raw mut value).cast::<c_void>()) }?;
    Ok(value)
}

/// What kernels were built for: `.target sm_90` in their text.
fn target(ptx: &str) -> Option<Target> {
    let line = ptx.lines().find_map(|line| line.trim().strip_prefix(".target sm_"))?;
    let digits = line.len() - line.trim_start_matches(|c: char| c.is_ascii_digit()).len();
    let (number, rest) = line.split_at(digits);
    let number: u32 = number.parse().ok()?;
    Some(Target { capability: (number / 10, number % 10), alone: rest.starts_with('a') })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_target_of_kernels_is_read_from_their_text() {
        let of = |text: &str| target(text).map(|of| (of.capability, of.alone));
        assert_eq!(of("// made by\n.version 9.0\n.target sm_80\n.address_size 64\n"), Some(((8, 0), false)));
        assert_eq!(of(".target sm_86, debug"), Some(((8, 6), false)));
        assert_eq!(of(".target sm_90a"), Some(((9, 0), true)));
        assert_eq!(of(".target sm_120"), Some(((12, 0), false)));
        assert_eq!(of("nothing"), None);
        assert!(target(kernels::UNARY.ptx()).is_some());
    }

    #[test]
    fn kernels_run_on_later_gpus_unless_they_are_for_one_kind_alone() {
        let (later, alone) =
            (Target { capability: (8, 0), alone: false }, Target { capability: (9, 0), alone: true });
        assert!(later.runs_on((8, 0)) && later.runs_on((12, 0)) && !later.runs_on((7, 5)));
        assert!(alone.runs_on((9, 0)) && !alone.runs_on((10, 0)) && !alone.runs_on((8, 9)));
        assert_eq!((later.to_string(), alone.to_string()), ("8.0 and later".into(), "9.0 alone".into()));
    }
}
