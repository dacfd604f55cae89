//! Convolutions through cuDNN. candle's own way to it sums halves in halves, lets f32 be rounded to TF32, asks for an
//! algorithm at every call and clears the workspace before it: here sums are f32 throughout, and what was found out
//! about a shape is kept.

use std::{cell::RefCell, collections::HashMap, sync::Arc};

use candle_core::{
    CpuStorage, CudaDevice, CudaStorage, CustomOp2, DType, Error, Layout, Result, Shape, Tensor,
    cuda_backend::{
        CudaDType, DeviceId,
        cudarc::{
            cudnn::{
                ConvDescriptor, ConvForward, Cudnn, CudnnDataType, FilterDescriptor, TensorDescriptor,
                sys::{
                    cudnnConvolutionFwdAlgo_t as Algorithm, cudnnConvolutionMode_t, cudnnMathType_t,
                    cudnnTensorFormat_t,
                },
            },
            driver::{CudaSlice, DeviceRepr},
        },
    },
};
use half::{bf16, f16};

/// The most bytes of a convolution's workspace; an algorithm that wants more is not used.
pub const WORKSPACE: usize = 1 << 30;
/// Shapes of one type whose plans a thread keeps; with more, it begins anew.
const PLANS: usize = 512;

/// `x` `[batch, in, height, width]` with `weight` `[out, in, kernel, kernel]` of one type: f16, bf16, f32 or f64.
pub fn conv2d(x: &Tensor, weight: &Tensor, stride: usize, padding: usize) -> Result<Tensor> {
    x.contiguous()?.apply_op2_no_bwd(&weight.contiguous()?, &Convolution { stride, padding })
}

/// Whether cuDNN computes with this type here.
pub fn computes(dtype: DType) -> bool {
    matches!(dtype, DType::F16 | DType::BF16 | DType::F32 | DType::F64)
}

struct Convolution {
    stride: usize,
    padding: usize,
}

/// What decides a plan, beside the type.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
struct Key {
    device: DeviceId,
    x: [usize; 4],
    weight: [usize; 4],
    stride: usize,
    padding: usize,
}

/// What was found out about a shape.
struct Plan<T, C> {
    conv: ConvDescriptor<C>,
    x: TensorDescriptor<T>,
    weight: FilterDescriptor<T>,
    y: TensorDescriptor<T>,
    algorithm: Algorithm,
    /// Bytes.
    workspace: usize,
}

type Plans<T, C> = RefCell<HashMap<Key, Arc<Plan<T, C>>>>;

thread_local! {
    // Handles and descriptors belong to a thread.
    static HANDLES: RefCell<HashMap<DeviceId, Arc<Cudnn>>> = RefCell::default();
    static PLANS_F16: Plans<f16, f32> = RefCell::default();
    static PLANS_BF16: Plans<bf16, f32> = RefCell::default();
    static PLANS_F32: Plans<f32, f32> = RefCell::default();
    static PLANS_F64: Plans<f64, f64> = RefCell::default();
}

/// The types that cuDNN computes with here, and how.
trait Element: CudaDType + CudnnDataType + DeviceRepr + Copy + 'static {
    /// The type of the sums.
    type Sum: CudnnDataType;
    /// Halves are multiplied on tensor cores; f32 is not rounded to TF32.
    const MATH: cudnnMathType_t;
    const ONE: Self;
    const ZERO: Self;

    fn with_plans<R>(work: impl FnOnce(&Plans<Self, Self::Sum>) -> R) -> R;
}

macro_rules! element {
    ($type:ty, $sum:ty, $math:ident, $one:expr, $zero:expr, $plans:ident) => {
        impl Element for $type {
            type Sum = $sum;
            const MATH: cudnnMathType_t = cudnnMathType_t::$math;
            const ONE: Self = $one;
            const ZERO: Self = $zero;

            fn with_plans<R>(work: impl FnOnce(&Plans<Self, Self::Sum>) -> R) -> R {
                $plans.with(work)
            }
        }
    };
}

element!(f16, f32, CUDNN_TENSOR_OP_MATH, f16::ONE, f16::ZERO, PLANS_F16);
element!(bf16, f32, CUDNN_TENSOR_OP_MATH, bf16::ONE, bf16::ZERO, PLANS_BF16);
element!(f32, f32, CUDNN_FMA_MATH, 1.0, 0.0, PLANS_F32);
element!(f64, f64, CUDNN_FMA_MATH, 1.0, 0.0, PLANS_F64);

impl CustomOp2 for Convolution {
    fn name(&self) -> &'static str {
        "cudnn-conv2d"
    }

    fn cpu_fwd(&self, _: &CpuStorage, _: &Layout, _: &CpuStorage, _: &Layout) -> Result<(CpuStorage, Shape)> {
        Err(Error::Msg("cuDNN computes on a GPU only".into()))
    }

    fn cuda_fwd(
        &self,
        x: &CudaStorage,
        x_layout: &Layout,
        weight: &CudaStorage,
        weight_layout: &Layout,
    ) -> Result<(CudaStorage, Shape)> {
        use candle_core::backend::BackendStorage;

        let run = match x.dtype() {
            DType::F16 => Self::run::<f16>,
            DType::BF16 => Self::run::<bf16>,
            DType::F32 => Self::run::<f32>,
            DType::F64 => Self::run::<f64>,
            other => return Err(Error::Msg(format!("cuDNN is not asked for {other:?} here"))),
        };
        run(self, x, x_layout, weight, weight_layout)
    }
}

impl Convolution {
    fn run<T: Element>(
        &self,
        x: &CudaStorage,
        x_layout: &Layout,
        weight: &CudaStorage,
        weight_layout: &Layout,
    ) -> Result<(CudaStorage, Shape)> {
        use candle_core::backend::BackendStorage;

        let device = x.device().clone();
        let sides = |layout: &Layout| layout.shape().dims4().map(|(a, b, c, d)| [a, b, c, d]);
        let (x_dims, weight_dims) = (sides(x_layout)?, sides(weight_layout)?);
        let Self { stride, padding } = *self;
        let key = Key { device: device.id(), x: x_dims, weight: weight_dims, stride, padding };
        let out = key.out()?;
        let plan = Plan::<T, T::Sum>::of(key, out, &device)?;
        let x = x.as_cuda_slice::<T>()?.slice(x_layout.start_offset()..);
        let weight = weight.as_cuda_slice::<T>()?.slice(weight_layout.start_offset()..);
        // SAFETY: cuDNN writes every value, and the workspace before it reads it.
        let (mut y, mut workspace) =
            unsafe { (device.alloc::<T>(out.iter().product())?, device.alloc::<u8>(plan.workspace.max(1))?) };
        let forward = ConvForward { conv: &plan.conv, x: &plan.x, w: &plan.weight, y: &plan.y };
        let scale = (T::ONE, T::ZERO);
        // SAFETY: the descriptors are of these shapes and this type, and both inputs are contiguous.
        unsafe {
            forward.launch::<CudaSlice<u8>, _, _, _>(
                plan.algorithm,
                Some(&mut workspace),
                scale,
                &x,
                &weight,
                &mut y,
            )
        }
        .map_err(Error::wrap)?;
        Ok((CudaStorage::wrap_cuda_slice(y, device), Shape::from(out.to_vec())))
    }
}

impl Key {
    /// The dimensions of what comes out.
    fn out(&self) -> Result<[usize; 4]> {
        let [batch, inputs, height, width] = self.x;
        let [outputs, weight_inputs, kernel_height, kernel_width] = self.weight;
        let side = |length: usize, kernel: usize| {
            (length + 2 * self.padding).checked_sub(kernel).map(|rest| rest / self.stride + 1)
        };
        match (side(height, kernel_height), side(width, kernel_width)) {
            (Some(rows), Some(columns)) if inputs == weight_inputs => Ok([batch, outputs, rows, columns]),
            _ => {
                Err(Error::Msg(format!("a convolution of {:?} with {:?} does not fit", self.x, self.weight)))
            }
        }
    }
}

impl<T: Element> Plan<T, T::Sum> {
    fn of(key: Key, out: [usize; 4], device: &CudaDevice) -> Result<Arc<Self>> {
        T::with_plans(|plans| {
            if let Some(plan) = plans.borrow().get(&key) {
                return Ok(plan.clone());
            }
            let plan = Arc::new(Self::new(key, out, &handle(device)?)?);
            let mut plans = plans.borrow_mut();
            if plans.len() == PLANS {
                plans.clear();
            }
            plans.insert(key, plan.clone());
            Ok(plan)
        })
    }

    fn new(key: Key, out: [usize; 4], cudnn: &Arc<Cudnn>) -> Result<Self> {
        let number =
            |of: usize| i32::try_from(of).map_err(|_| Error::Msg(format!("{of} is too large for cuDNN")));
        let numbers =
            |[a, b, c, d]: [usize; 4]| Ok::<_, Error>([number(a)?, number(b)?, number(c)?, number(d)?]);
        let (padding, stride) = (number(key.padding)?, number(key.stride)?);
        let mode = cudnnConvolutionMode_t::CUDNN_CROSS_CORRELATION;
        let layout = cudnnTensorFormat_t::CUDNN_TENSOR_NCHW;
        let mut conv =
            cudnn.create_conv2d::<T::Sum>([padding; 2], [stride; 2], [1; 2], mode).map_err(Error::wrap)?;
        conv.set_math_type(T::MATH).map_err(Error::wrap)?;
        let x = cudnn.create_4d_tensor::<T>(layout, numbers(key.x)?).map_err(Error::wrap)?;
        let weight = cudnn.create_4d_filter::<T>(layout, numbers(key.weight)?).map_err(Error::wrap)?;
        let y = cudnn.create_4d_tensor::<T>(layout, numbers(out)?).map_err(Error::wrap)?;
        let forward = ConvForward { conv: &conv, x: &x, w: &weight, y: &y };
        let mut algorithm = forward.pick_algorithm().map_err(Error::wrap)?;
        let mut workspace = forward.get_workspace_size(algorithm).map_err(Error::wrap)?;
        if workspace > WORKSPACE {
            algorithm = Algorithm::CUDNN_CONVOLUTION_FWD_ALGO_IMPLICIT_PRECOMP_GEMM;
            workspace = forward.get_workspace_size(algorithm).map_err(Error::wrap)?;
        }
        Ok(Self { conv, x, weight, y, algorithm, workspace })
    }
}

/// This thread's cuDNN of the device, on the device's stream.
fn handle(device: &CudaDevice) -> Result<Arc<Cudnn>> {
    HANDLES.with_borrow_mut(|handles| {
        if let Some(handle) = handles.get(&device.id()) {
            return Ok(handle.clone());
        }
        let handle = Cudnn::new(device.cuda_stream()).map_err(Error::wrap)?;
        handles.insert(device.id(), handle.clone());
        Ok(handle)
    })
}
