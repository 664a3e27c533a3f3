//! A tensor in a mapped file: where it is, how it is stored, and the reading of any part of it as `f32`.

use std::fs::File;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use memmap2::{Mmap, MmapMut};

use super::element::{self, Element};
use super::error::{WeightsError, printable};
use crate::mapping::map_file;

/// A mapped file.
#[derive(Debug)]
pub(crate) struct MappedFile {
    pub(crate) path: PathBuf,
    content: Mmap,
}

impl MappedFile {
    pub(crate) fn open(path: &Path) -> Result<Arc<Self>, WeightsError> {
        let io = |source| WeightsError::Io { path: path.to_owned(), source };
        let file = File::open(path).map_err(io)?;
        // An empty file cannot be mapped everywhere.
        if file.metadata().map_err(io)?.len() == 0 {
            return Err(WeightsError::Format { path: path.to_owned(), problem: "it is empty".to_owned() });
        }
        Self::of(path, map_file(&file).map_err(io)?)
    }

    /// A copy of what a file would hold; `path` is for messages, and its extension counts as that of a file does.
    pub(crate) fn from_bytes(path: &Path, bytes: &[u8]) -> Result<Arc<Self>, WeightsError> {
        if bytes.is_empty() {
            return Err(WeightsError::Format { path: path.to_owned(), problem: "it is empty".to_owned() });
        }
        let io = |source| WeightsError::Io { path: path.to_owned(), source };
        // A mapping, so that what reads files reads this too.
        let mut content = MmapMut::map_anon(bytes.len()).map_err(io)?;
        content.copy_from_slice(bytes);
        Self::of(path, content.make_read_only().map_err(io)?)
    }

    fn of(path: &Path, content: Mmap) -> Result<Arc<Self>, WeightsError> {
        if basin_volume_data::pointer::is_pointer(&content) {
            return Err(WeightsError::Pointer { path: path.to_owned() });
        }
        Ok(Arc::new(Self { path: path.to_owned(), content }))
    }

    /// Room for `count` numbers, which `fill` writes; `path` is for messages.
    pub(crate) fn computed(path: &Path, count: usize, fill: impl FnOnce(&mut [f32])) -> Result<Arc<Self>, WeightsError> {
        let io = |source| WeightsError::Io { path: path.to_owned(), source };
        let mut content = MmapMut::map_anon(size_of::<f32>() * count.max(1)).map_err(io)?;
        fill(bytemuck::cast_slice_mut(&mut content[..size_of::<f32>() * count]));
        Ok(Arc::new(Self { path: path.to_owned(), content: content.make_read_only().map_err(io)? }))
    }

    pub(crate) fn bytes(&self) -> &[u8] {
        &self.content
    }

    pub(crate) fn fault(&self, problem: impl Into<String>) -> WeightsError {
        WeightsError::Format { path: self.path.clone(), problem: problem.into() }
    }

    pub(crate) fn tensor_fault(&self, tensor: &str, problem: impl Into<String>) -> WeightsError {
        WeightsError::Tensor { path: self.path.clone(), tensor: printable(tensor), problem: problem.into() }
    }
}

/// How the rows of a tensor were reordered when it was stored.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum RowOrder {
    /// In every head of `width` rows, the two halves are interleaved: llama.cpp's order for rotary embeddings.
    Interleaved { width: usize },
    /// Query, key and value of all heads one after the other, instead of head by head.
    Grouped { heads: usize, width: usize },
}

impl RowOrder {
    /// Where row `row` is stored.
    fn stored(self, row: usize) -> usize {
        match self {
            Self::Interleaved { width } => {
                let (head, place) = (row / width, row % width);
                let (half, index) = (place / (width / 2), place % (width / 2));
                head * width + 2 * index + half
            }
            Self::Grouped { heads, width } => {
                let (head, place) = (row / (3 * width), row % (3 * width));
                let (part, index) = (place / width, place % width);
                (part * heads + head) * width + index
            }
        }
    }
}

/// The order in which a tensor's elements are stored.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Order {
    /// Row-major, without gaps.
    Dense,
    /// Element `[i, j, ..]` is number `i * strides[0] + j * strides[1] + ..` of the stored ones. Never for quantized elements.
    Strided(Vec<usize>),
    /// Dense, with the rows in another order.
    Rows(RowOrder),
    /// Dense as the transpose of what is asked for; two dimensions.
    Transposed,
}

/// Where a tensor is and how it is stored. The readers guarantee that every element lies inside `bytes`.
#[derive(Debug, Clone)]
pub(crate) struct StoredTensor {
    pub(super) file: Arc<MappedFile>,
    pub(crate) shape: Vec<usize>,
    pub(crate) element: Element,
    /// The part of the file that holds the elements.
    pub(super) bytes: Range<usize>,
    pub(crate) order: Order,
    /// What was added to every element when it was stored.
    pub(super) shift: f32,
}

impl StoredTensor {
    pub(super) fn dense(file: &Arc<MappedFile>, shape: Vec<usize>, element: Element, bytes: Range<usize>) -> Self {
        Self { file: Arc::clone(file), shape, element, bytes, order: Order::Dense, shift: 0.0 }
    }

    /// Number of elements; the readers have checked that it does not overflow.
    pub(crate) fn len(&self) -> usize {
        self.shape.iter().product()
    }

    /// The elements as they stand in the file, where that is how `f32` stands in memory.
    pub(super) fn as_f32(&self) -> Option<&[f32]> {
        let plain = self.element == Element::F32 && self.order == Order::Dense && self.shift == 0.0 && cfg!(target_endian = "little");
        plain.then(|| bytemuck::try_cast_slice(&self.file.bytes()[self.bytes.clone()]).ok())?
    }

    /// Reads the elements `range`, in row-major order of `shape`. The element type must be readable.
    pub(crate) fn read(&self, range: Range<usize>, out: &mut [f32]) {
        assert_eq!(range.len(), out.len(), "the output must be as long as the range");
        assert!(range.end <= self.len(), "the range must lie inside the tensor");
        if out.is_empty() {
            return;
        }
        let bytes = &self.file.bytes()[self.bytes.clone()];
        match &self.order {
            Order::Dense => element::decode(self.element, bytes, range.start, out),
            Order::Strided(strides) => self.read_strided(bytes, strides, range.start, out),
            Order::Rows(order) => {
                let length = self.len() / self.shape[0];
                let mut position = range.start;
                while position < range.end {
                    let (row, column) = (position / length, position % length);
                    let count = (length - column).min(range.end - position);
                    let part = &mut out[position - range.start..][..count];
                    element::decode(self.element, bytes, order.stored(row) * length + column, part);
                    position += count;
                }
            }
            Order::Transposed => self.read_transposed(bytes, range, out),
        }
        if self.shift != 0.0 {
            out.iter_mut().for_each(|value| *value -= self.shift);
        }
    }

    fn read_strided(&self, bytes: &[u8], strides: &[usize], start: usize, out: &mut [f32]) {
        let Some((&inner, outer)) = self.shape.split_last() else {
            return element::decode(self.element, bytes, 0, out);
        };
        let step = strides[outer.len()];
        let mut written = 0;
        while written < out.len() {
            let position = start + written;
            let column = position % inner;
            let mut rest = position / inner;
            let mut place = column * step;
            for (&size, &stride) in outer.iter().zip(strides).rev() {
                place += rest % size * stride;
                rest /= size;
            }
            let count = (inner - column).min(out.len() - written);
            let row = &mut out[written..written + count];
            if step == 1 {
                element::decode(self.element, bytes, place, row);
            } else {
                for (index, value) in row.chunks_mut(1).enumerate() {
                    element::decode(self.element, bytes, place + index * step, value);
                }
            }
            written += count;
        }
    }

    fn read_transposed(&self, bytes: &[u8], range: Range<usize>, out: &mut [f32]) {
        let (rows, columns) = (self.shape[0], self.shape[1]);
        let (first, last) = (range.start / columns, (range.end - 1) / columns);
        let mut buffer = vec![0.0; last - first + 1];
        // A part of one row needs only its own columns.
        let wanted = if first == last { range.start % columns..range.end - first * columns } else { 0..columns };
        for column in wanted {
            element::decode(self.element, bytes, column * rows + first, &mut buffer);
            for (row, &value) in (first..).zip(&buffer) {
                let position = row * columns + column;
                if range.contains(&position) {
                    out[position - range.start] = value;
                }
            }
        }
    }
}

/// The number of elements of a shape; None on overflow, whether or not another dimension is 0.
pub(super) fn element_count(shape: &[usize]) -> Option<usize> {
    shape.iter().try_fold(1usize, |count, &size| count.checked_mul(size))
}
