//! Rotary positions: frequencies with their scaling, and the rotation.

/// Rotation of the first `width` features of every head.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Rotary {
    /// Even.
    pub(crate) width: usize,
    /// Radians per position of each pair, `width / 2` of them.
    pub(crate) frequencies: Vec<f32>,
}

/// Changes of the frequencies for longer sequences.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) enum Scaling {
    /// None, or one that only starts beyond the longest sequence.
    Unscaled,
    /// All frequencies divided by the factor.
    Linear(f64),
    /// Llama 3: low frequencies divided by the factor, a smooth passage to the unchanged high ones.
    Llama3 { factor: f64, low: f64, high: f64, original_positions: f64 },
}

impl Rotary {
    /// `frequency_i = base^(-2i/width)`, scaled.
    pub(crate) fn new(width: usize, base: f64, scaling: Scaling) -> Self {
        let frequency = |pair: usize| {
            let frequency = base.powf(-((2 * pair) as f64) / width as f64);
            match scaling {
                Scaling::Unscaled => frequency,
                Scaling::Linear(factor) => frequency / factor,
                Scaling::Llama3 { factor, low, high, original_positions } => {
                    // Turns within the original positions.
                    let turns = original_positions * frequency / (2.0 * std::f64::consts::PI);
                    let smooth = ((turns - low) / (high - low)).clamp(0.0, 1.0);
                    (1.0 - smooth) * frequency / factor + smooth * frequency
                }
            }
        };
        Self { width, frequencies: (0..width / 2).map(|pair| frequency(pair) as f32).collect() }
    }

    /// Rotates the feature-major `values` `[heads * head_width, columns]`: features `i` and `i + width/2` of every head form a pair.
    pub(crate) fn apply(&self, values: &mut [f32], head_width: usize, columns: usize, cosines: &[f32], sines: &[f32]) {
        let half = self.width / 2 * columns;
        for head in values.chunks_exact_mut(head_width * columns) {
            let (first, second) = head[..2 * half].split_at_mut(half);
            for (((x, y), &cosine), &sine) in first.iter_mut().zip(second).zip(cosines).zip(sines) {
                (*x, *y) = (*x * cosine - *y * sine, *y * cosine + *x * sine);
            }
        }
    }
}
