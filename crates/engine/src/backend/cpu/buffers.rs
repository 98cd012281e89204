//! Activation buffers: taken for an operation's result, given back when the tensor is dropped.
//!
//! A tensor is f32; its rounded form (`QuantBlock`) is made when the first product by packed weights asks for it, and kept for the
//! next. Invariant: there are never more buffers than tensors were alive at once.

use std::sync::{Arc, Mutex, MutexGuard, OnceLock};

use gossamer_kernels::{QUANT_BLOCK, QuantBlock};

/// Free buffers of both kinds.
#[derive(Default)]
pub struct Buffers {
    floats: Pool<f32>,
    quant: Pool<QuantBlock>,
}

/// Free buffers. Their lengths only grow; their contents are old values.
#[derive(Default)]
struct Pool<T> {
    free: Mutex<Vec<Vec<T>>>,
}

impl<T: Clone + Default> Pool<T> {
    fn lock(&self) -> MutexGuard<'_, Vec<Vec<T>>> {
        // The list is whole at every moment, so a panic elsewhere does not spoil it.
        self.free
            .lock()
            .unwrap_or_else(|poisoned| poisoned.into_inner())
    }

    /// The smallest free buffer of at least `len` elements, or a new one in place of the largest free one.
    fn take(&self, len: usize) -> Vec<T> {
        let mut free = self.lock();
        let fitting = (0..free.len())
            .filter(|i| free[*i].len() >= len)
            .min_by_key(|i| free[*i].len());
        if let Some(index) = fitting {
            return free.swap_remove(index);
        }
        if let Some(largest) = (0..free.len()).max_by_key(|i| free[*i].len()) {
            free.swap_remove(largest);
        }
        drop(free);
        vec![T::default(); len]
    }

    fn give_back(&self, buffer: Vec<T>) {
        self.lock().push(buffer);
    }
}

/// Activations `[rows, cols]`, row-major.
pub struct CpuTensor {
    buffer: Vec<f32>,
    quantized: OnceLock<QuantTensor>,
    rows: usize,
    cols: usize,
    home: Arc<Buffers>,
}

impl CpuTensor {
    /// A tensor of arbitrary contents: the caller overwrites all of it.
    pub fn new(home: &Arc<Buffers>, rows: usize, cols: usize) -> Self {
        Self {
            buffer: home.floats.take(rows * cols),
            quantized: OnceLock::new(),
            rows,
            cols,
            home: Arc::clone(home),
        }
    }

    /// Rows.
    pub fn rows(&self) -> usize {
        self.rows
    }

    /// Elements per row.
    pub fn cols(&self) -> usize {
        self.cols
    }

    /// All elements.
    pub fn data(&self) -> &[f32] {
        &self.buffer[..self.rows * self.cols]
    }

    /// All elements, writable.
    pub fn data_mut(&mut self) -> &mut [f32] {
        self.quantized.take();
        &mut self.buffer[..self.rows * self.cols]
    }

    /// One row.
    pub fn row(&self, row: usize) -> &[f32] {
        &self.data()[row * self.cols..][..self.cols]
    }

    /// The rounded form, `[rows, cols / 32]`; `quantize` makes it of all elements, the first time.
    pub fn quantized(&self, quantize: impl FnOnce(&[f32], &mut [QuantBlock])) -> &[QuantBlock] {
        let made = self.quantized.get_or_init(|| {
            let mut made = QuantTensor::new(&self.home, self.rows, self.cols);
            quantize(self.data(), made.data_mut());
            made
        });
        made.data()
    }
}

impl Drop for CpuTensor {
    fn drop(&mut self) {
        self.home.floats.give_back(std::mem::take(&mut self.buffer));
    }
}

/// Activations `[rows, cols]`, rounded, row-major.
pub struct QuantTensor {
    buffer: Vec<QuantBlock>,
    len: usize,
    home: Arc<Buffers>,
}

impl QuantTensor {
    /// A tensor of arbitrary contents: the caller overwrites all of it. `cols` is a multiple of 32.
    pub fn new(home: &Arc<Buffers>, rows: usize, cols: usize) -> Self {
        let len = rows * cols / QUANT_BLOCK;
        Self {
            buffer: home.quant.take(len),
            len,
            home: Arc::clone(home),
        }
    }

    /// All blocks.
    pub fn data(&self) -> &[QuantBlock] {
        &self.buffer[..self.len]
    }

    /// All blocks, writable.
    pub fn data_mut(&mut self) -> &mut [QuantBlock] {
        &mut self.buffer[..self.len]
    }
}

impl Drop for QuantTensor {
    fn drop(&mut self) {
        self.home.quant.give_back(std::mem::take(&mut self.buffer));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_steady_load_reuses_its_buffers() {
        let buffers = Arc::new(Buffers::default());
        let round = || {
            let x = CpuTensor::new(&buffers, 3, 32);
            let y = CpuTensor::new(&buffers, 1, 1000);
            x.quantized(|_, out| out.fill(QuantBlock::default()));
            drop(x);
            let z = CpuTensor::new(&buffers, 2, 32);
            assert_eq!((z.data().len(), y.data().len()), (64, 1000));
            (z.data().as_ptr() as usize, y.data().as_ptr() as usize)
        };
        let first = round();
        assert_eq!(round(), first);
        assert_eq!(buffers.floats.lock().len(), 2);
        assert_eq!(buffers.quant.lock().len(), 1);
    }

    #[test]
    fn the_eight_bit_form_is_made_once_and_again_after_a_change() {
        let mut x = CpuTensor::new(&Arc::default(), 1, 32);
        x.data_mut().fill(2.0);
        let made = |value: f32| {
            move |x: &[f32], out: &mut [QuantBlock]| {
                assert_eq!(x, [value; 32]);
                gossamer_kernels::quantize(gossamer_kernels::Isa::SCALAR, x, out);
            }
        };
        assert_eq!(
            x.quantized(made(2.0))[0].get(gossamer_kernels::Isa::SCALAR, 5),
            2.0
        );
        assert_eq!(
            x.quantized(|_, _| unreachable!())[0].get(gossamer_kernels::Isa::SCALAR, 5),
            2.0
        );
        x.data_mut().fill(3.0);
        assert_eq!(
            x.quantized(made(3.0))[0].get(gossamer_kernels::Isa::SCALAR, 5),
            3.0
        );
    }
}
