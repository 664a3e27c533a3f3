//! Normals by a kernel, compiled for the card when the program first needs it.

use std::ops::Range;
use std::sync::OnceLock;

use basin_volume::random::NormalVector;
use candle_core::backend::BackendStorage;
use candle_core::cuda_backend::cudarc::driver::{LaunchConfig, PushKernelArg};
use candle_core::cuda_backend::cudarc::nvrtc::{CompileOptions, compile_ptx_with_opts};
use candle_core::cuda_backend::{CudaStorage, WrapErr};
use candle_core::{CpuStorage, DType, Device, Error, InplaceOp1, Layout, Result, Tensor};

/// The operations of `docs/directions.md`, named one by one.
const SOURCE: &str = include_str!("../normals.cu");

/// Coordinates that a thread of the kernel makes.
const PER_THREAD: usize = 4;

/// Threads of a block.
const THREADS: u32 = 256;

/// The coordinates `range` of a vector, on a card.
pub(super) fn tensor(normals: NormalVector, range: Range<usize>, device: &Device) -> Result<Tensor> {
    let tensor = Tensor::zeros(range.len(), DType::F32, device)?;
    tensor.inplace_op1(&Normals { normals, range })?;
    Ok(tensor)
}

struct Normals {
    normals: NormalVector,
    range: Range<usize>,
}

/// The kernel for the card's driver: without contraction and flushing, with the square root of IEEE.
fn compiled() -> Result<&'static str> {
    static COMPILED: OnceLock<String> = OnceLock::new();
    if let Some(compiled) = COMPILED.get() {
        return Ok(compiled);
    }
    let options = CompileOptions { fmad: Some(false), ftz: Some(false), prec_sqrt: Some(true), ..CompileOptions::default() };
    let compiled = compile_ptx_with_opts(SOURCE, options).map_err(Error::wrap)?;
    Ok(COMPILED.get_or_init(|| compiled.to_src()))
}

impl InplaceOp1 for Normals {
    fn name(&self) -> &'static str {
        "normals"
    }

    fn cpu_fwd(&self, _storage: &mut CpuStorage, _layout: &Layout) -> Result<()> {
        candle_core::bail!("the processor has lanes for normals")
    }

    // The launch of a kernel has no safe form.
    #[allow(unsafe_code)]
    fn cuda_fwd(&self, storage: &mut CudaStorage, layout: &Layout) -> Result<()> {
        let device = storage.device().clone();
        let kernel = device.get_or_load_custom_func("normals", "basin_volume_normals", compiled()?)?;
        let Some((first, end)) = layout.contiguous_offsets().filter(|(first, end)| end - first == self.range.len()) else {
            candle_core::bail!("normals are made in contiguous tensors")
        };
        let mut out = storage.as_cuda_slice_mut::<f32>()?.slice_mut(first..end);
        // The first and the last thread may make less than they could.
        let blocks = self.range.end.div_ceil(PER_THREAD) - self.range.start / PER_THREAD;
        let config = LaunchConfig {
            grid_dim: (u32::try_from(blocks).map_err(Error::wrap)?.div_ceil(THREADS), 1, 1),
            block_dim: (THREADS, 1, 1),
            shared_mem_bytes: 0,
        };
        let (start, count) = (self.range.start as u64, self.range.len() as u64);
        let (index, [low, high]) = (self.normals.index(), self.normals.key());
        let mut launch = kernel.builder();
        launch.arg(&mut out).arg(&start).arg(&count).arg(&index).arg(&low).arg(&high);
        // SAFETY: the arguments are those of the kernel's signature, and it writes `count` numbers from `out` on, which is as long.
        unsafe { launch.launch(config) }.w()?;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use basin_volume::random::Purpose;

    use super::*;

    #[test]
    #[ignore = "needs a graphics card: cargo test --release --features cuda -p basin-volume-models -- --ignored"]
    fn the_kernel_has_the_bits_of_the_lanes() {
        let device = Device::new_cuda(0).unwrap();
        for (seed, index, range) in
            [(3, 5, 0..1 << 20), (u64::MAX, 1 << 50, 1..100_004), (7, 0, 6..7), (7, u64::MAX, (1 << 34) - 7..1 << 34)]
        {
            let normals = NormalVector::new(Purpose::Directions, seed, index, 1 << 35);
            let found = tensor(normals, range.clone(), &device).unwrap().to_vec1::<f32>().unwrap();
            let mut expected = vec![0.0f32; range.len()];
            normals.fill(range.clone(), &mut expected);
            let bits = |values: &[f32]| values.iter().map(|value| value.to_bits()).collect::<Vec<_>>();
            assert!(bits(&found) == bits(&expected), "seed {seed}, index {index}, coordinates {range:?}");
        }
    }
}
