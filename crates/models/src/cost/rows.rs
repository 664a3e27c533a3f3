//! Costs of outputs that another program computed: rows of logits, one a position.

use rayon::prelude::*;

use crate::nn::row_divergence::{Row, divergence, slopes};

/// Outputs of the center and of a moved network, `[positions, classes]` each, row by row.
#[derive(Debug, Clone, Copy)]
pub struct OutputRows<'a> {
    /// Logits of the center.
    pub center: &'a [f32],
    /// The log of their normalization, one a position.
    pub logarithms: &'a [f32],
    /// Logits of the moved network.
    pub logits: &'a [f32],
    /// How much the center's largest logit has changed, one a position: any number is right, this one keeps the most digits.
    pub shifts: &'a [f32],
}

impl<'a> OutputRows<'a> {
    fn classes(&self) -> usize {
        let positions = self.logarithms.len().max(1);
        let classes = self.center.len() / positions;
        assert!(
            classes * positions == self.center.len() && self.logits.len() == self.center.len(),
            "both outputs are [positions, classes]"
        );
        assert_eq!(self.shifts.len(), self.logarithms.len(), "one shift a position");
        classes.max(1)
    }

    fn row(&self, position: usize, classes: usize) -> Row<'a> {
        let place = position * classes..(position + 1) * classes;
        Row {
            center: &self.center[place.clone()],
            logarithm: self.logarithms[position],
            logits: &self.logits[place],
            shift: self.shifts[position],
        }
    }

    /// `KL(softmax(center) || softmax(logits))` of every position, nats; NaN where a logit is not finite. Relative error a few 1e-7. Positions are
    /// shared out over rayon's current pool.
    ///
    /// # Panics
    /// If a length does not fit the others.
    pub fn divergences(&self, nats: &mut [f64]) {
        let classes = self.classes();
        assert_eq!(nats.len(), self.logarithms.len(), "one number a position");
        nats.par_iter_mut().enumerate().for_each(|(position, nats)| *nats = divergence(self.row(position, classes)).nats);
    }

    /// The same, with the slopes of `scale` times their sum by the logits, `[positions, classes]`.
    ///
    /// # Panics
    /// If a length does not fit the others.
    pub fn divergences_with_slopes(&self, nats: &mut [f64], scale: f32, out: &mut [f32]) {
        let classes = self.classes();
        assert!(nats.len() == self.logarithms.len() && out.len() == self.logits.len(), "one number a position, one slope a logit");
        nats.par_iter_mut().zip(out.par_chunks_mut(classes)).enumerate().for_each(|(position, (nats, out))| {
            let row = self.row(position, classes);
            let found = divergence(row);
            *nats = found.nats;
            slopes(row, found.normalization, scale, out);
        });
    }
}
