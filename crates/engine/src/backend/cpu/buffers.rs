//! Activation buffers: taken for an operation's result, given back when the tensor is dropped.
//!
//! Invariant: there are never more buffers than tensors were alive at once.

use std::sync::{Arc, Mutex, MutexGuard};

/// Free buffers. Their lengths only grow; their contents are old values.
#[derive(Default)]
pub struct Buffers {
    free: Mutex<Vec<Vec<f32>>>,
}

impl Buffers {
    fn lock(&self) -> MutexGuard<'_, Vec<Vec<f32>>> {
        // The list is whole at every moment, so a panic elsewhere does not spoil it.
        self.free
            .lock()
            .unwrap_or_else(|poisoned| poisoned.into_inner())
    }

    /// The smallest free buffer of at least `len` elements, or a new one in place of the largest free one.
    fn take(&self, len: usize) -> Vec<f32> {
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
        vec![0.0; len]
    }
}

/// Activations `[rows, cols]`, row-major.
pub struct CpuTensor {
    buffer: Vec<f32>,
    rows: usize,
    cols: usize,
    home: Arc<Buffers>,
}

impl CpuTensor {
    /// A tensor of arbitrary contents: the caller overwrites all of it.
    pub fn new(home: &Arc<Buffers>, rows: usize, cols: usize) -> Self {
        Self {
            buffer: home.take(rows * cols),
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
        &mut self.buffer[..self.rows * self.cols]
    }

    /// One row.
    pub fn row(&self, row: usize) -> &[f32] {
        &self.data()[row * self.cols..][..self.cols]
    }
}

impl Drop for CpuTensor {
    fn drop(&mut self) {
        self.home.lock().push(std::mem::take(&mut self.buffer));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_steady_load_reuses_its_buffers() {
        let buffers = Arc::new(Buffers::default());
        let round = || {
            let x = CpuTensor::new(&buffers, 3, 10);
            let y = CpuTensor::new(&buffers, 1, 1000);
            drop(x);
            let z = CpuTensor::new(&buffers, 2, 10);
            assert_eq!((z.data().len(), y.data().len()), (20, 1000));
            (z.data().as_ptr() as usize, y.data().as_ptr() as usize)
        };
        let first = round();
        assert_eq!(round(), first);
        assert_eq!(buffers.lock().len(), 2);
    }
}
