//! The point that everything is measured around.

use std::ops::Range;

/// A vector of `D` trained parameters, the center `c`.
pub trait Center: Sync {
    /// Number of parameters, `D`.
    fn dimension(&self) -> usize;

    /// Writes the coordinates `range` of the center into `out`, which has `range.len()` elements.
    fn center(&self, range: Range<usize>, out: &mut [f32]);
}

/// The coordinates themselves.
impl Center for Vec<f32> {
    fn dimension(&self) -> usize {
        self.len()
    }

    fn center(&self, range: Range<usize>, out: &mut [f32]) {
        out.copy_from_slice(&self[range]);
    }
}
