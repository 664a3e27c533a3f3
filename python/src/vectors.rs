//! Vectors of float32 between Rust and Python.

use std::ffi::c_int;
use std::ops::{Deref, DerefMut};
use std::ptr::NonNull;

use pyo3::buffer::PyBuffer;
use pyo3::ffi;
use pyo3::prelude::*;
use pyo3::types::PyByteArray;

use crate::error::UsageError;

/// The memory of a buffer of Python's, read without the interpreter.
pub struct Borrowed {
    /// Keeps the memory where it is.
    buffer: PyBuffer<f32>,
    values: NonNull<[f32]>,
}

// SAFETY: the memory is only read, and stays where it is as long as the buffer is held; releasing the buffer attaches to the interpreter by itself.
unsafe impl Send for Borrowed {}
// SAFETY: as above; reading from several threads is no race, because the package writes to nothing that it has handed over, as long as it is held.
unsafe impl Sync for Borrowed {}

impl Borrowed {
    /// Holds a contiguous buffer of float32.
    pub fn new(object: &Bound<'_, PyAny>) -> PyResult<Self> {
        let buffer = PyBuffer::<f32>::get(object)?;
        match buffer.as_slice_ptr() {
            Some(values) => Ok(Self { values, buffer }),
            None => Err(UsageError::new_err("a contiguous vector of float32 is expected")),
        }
    }
}

impl Deref for Borrowed {
    type Target = [f32];

    fn deref(&self) -> &[f32] {
        // SAFETY: the memory of a contiguous buffer that is held; nobody writes to it.
        unsafe { self.values.as_ref() }
    }
}

/// The memory of a writable buffer of Python's, written to without the interpreter.
pub struct BorrowedMut(Borrowed);

impl BorrowedMut {
    /// Holds a contiguous, writable buffer of float32 that nobody else uses meanwhile.
    pub fn new(object: &Bound<'_, PyAny>) -> PyResult<Self> {
        let borrowed = Borrowed::new(object)?;
        if borrowed.buffer.readonly() {
            return Err(UsageError::new_err("a writable vector of float32 is expected"));
        }
        Ok(Self(borrowed))
    }
}

impl Deref for BorrowedMut {
    type Target = [f32];

    fn deref(&self) -> &[f32] {
        &self.0
    }
}

impl DerefMut for BorrowedMut {
    fn deref_mut(&mut self) -> &mut [f32] {
        // SAFETY: as for reading; the buffer is writable, and the package uses it for nothing else while it is held here.
        unsafe { self.0.values.as_mut() }
    }
}

/// A vector that was moved to Python: a buffer of its own, whose memory is nobody else's any more. Nothing is copied.
#[pyclass(frozen)]
pub struct Vector {
    values: NonNull<[f32]>,
}

// SAFETY: the memory belongs to the object alone; Rust does not touch it between making and freeing it.
unsafe impl Send for Vector {}
// SAFETY: as above.
unsafe impl Sync for Vector {}

impl From<Vec<f32>> for Vector {
    fn from(values: Vec<f32>) -> Self {
        Self { values: NonNull::from(Box::leak(values.into_boxed_slice())) }
    }
}

impl Drop for Vector {
    fn drop(&mut self) {
        // SAFETY: it was leaked from a box when the object was made, and no buffer outlives the object.
        drop(unsafe { Box::from_raw(self.values.as_ptr()) });
    }
}

#[pymethods]
impl Vector {
    /// Bytes; numpy reads them as float32.
    unsafe fn __getbuffer__(slf: Bound<'_, Self>, view: *mut ffi::Py_buffer, flags: c_int) -> PyResult<()> {
        let values = slf.get().values;
        let length = (values.len() * size_of::<f32>()).cast_signed();
        // SAFETY: the view is the interpreter's to fill; it holds a reference to this object, whose memory stays where it is.
        let filled = unsafe { ffi::PyBuffer_FillInfo(view, slf.as_ptr(), values.as_ptr().cast(), length, 0, flags) };
        if filled == 0 { Ok(()) } else { Err(PyErr::fetch(slf.py())) }
    }
}

/// Numbers as a buffer of their own.
pub fn buffer<'py, T: bytemuck::Pod>(py: Python<'py>, values: &[T]) -> Bound<'py, PyByteArray> {
    PyByteArray::new(py, bytemuck::cast_slice(values))
}

/// The values of a contiguous buffer of float32.
pub fn values(py: Python<'_>, object: &Bound<'_, PyAny>) -> PyResult<Vec<f32>> {
    PyBuffer::<f32>::get(object)?.to_vec(py)
}
