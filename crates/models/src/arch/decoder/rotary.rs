//! Rotary positions: frequencies with their scaling, and the rotation.

/// Rotation of the first `width` features of every head.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Rotary {
    /// Even.
    pub(crate) width: usize,
    /// Factor of cosines and sines, and so of the rotated features.
    pub(crate) factor: f64,
    /// Radians per position of each pair, `width / 2` of them.
    frequencies: Vec<f32>,
    longer: Option<Longer>,
}

/// What applies to long sequences, from their first position on.
#[derive(Debug, Clone, PartialEq)]
struct Longer {
    /// Sequences of more positions than this.
    than: usize,
    frequencies: Vec<f32>,
}

/// Changes of the frequencies for longer sequences.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Scaling {
    /// None, or one that only starts beyond the longest sequence.
    Unscaled,
    /// All frequencies divided by the factor.
    Linear(f64),
    /// Llama 3: low frequencies divided by the factor, a smooth passage to the unchanged high ones.
    Llama3 { factor: f64, low: f64, high: f64, original_positions: f64 },
    /// YaRN (Peng et al. 2023, arXiv:2309.00071): the same with a straight passage over the pairs, between those that turn `fast` and
    /// `slow` times within the original positions.
    Yarn { factor: f64, fast: f64, slow: f64, original_positions: f64 },
    /// LongRoPE (Ding et al. 2024, arXiv:2402.13753): a divisor for every pair, others for sequences longer than the original positions.
    LongRope { short: Vec<f64>, long: Vec<f64>, original_positions: usize },
}

impl Rotary {
    /// `frequency_i = base^(-2i/width)`, scaled; cosines and sines times `factor`.
    pub(crate) fn new(width: usize, base: f64, scaling: &Scaling, factor: f64) -> Self {
        let own = |pair: usize| base.powf(-((2 * pair) as f64) / width as f64);
        let all = |frequency: &dyn Fn(usize) -> f64| (0..width / 2).map(|pair| frequency(pair) as f32).collect();
        let mut longer = None;
        let frequencies = match scaling {
            Scaling::Unscaled => all(&own),
            Scaling::Linear(factor) => all(&|pair| own(pair) / factor),
            Scaling::Llama3 { factor, low, high, original_positions } => all(&|pair| {
                // Turns within the original positions.
                let turns = original_positions * own(pair) / (2.0 * std::f64::consts::PI);
                let smooth = ((turns - low) / (high - low)).clamp(0.0, 1.0);
                (1.0 - smooth) * own(pair) / factor + smooth * own(pair)
            }),
            Scaling::Yarn { factor, fast, slow, original_positions } => {
                // The pair, not a whole number, that turns so often within the original positions.
                let pair_of =
                    |turns: f64| width as f64 * (original_positions / (turns * 2.0 * std::f64::consts::PI)).ln() / (2.0 * base.ln());
                let (first, last) = (pair_of(*fast).floor().max(0.0), pair_of(*slow).ceil().min((width - 1) as f64));
                let length = if first == last { 0.001 } else { last - first };
                all(&|pair| {
                    let scaled = ((pair as f64 - first) / length).clamp(0.0, 1.0);
                    scaled * own(pair) / factor + (1.0 - scaled) * own(pair)
                })
            }
            Scaling::LongRope { short, long, original_positions } => {
                longer = Some(Longer { than: *original_positions, frequencies: all(&|pair| own(pair) / long[pair]) });
                all(&|pair| own(pair) / short[pair])
            }
        };
        Self { width, factor, frequencies, longer }
    }

    /// Radians per position of each pair in a sequence of this length.
    pub(crate) fn frequencies(&self, length: usize) -> &[f32] {
        match &self.longer {
            Some(longer) if length > longer.than => &longer.frequencies,
            _ => &self.frequencies,
        }
    }

    /// Whether a sequence's first positions are turned otherwise when it goes on.
    pub(crate) fn depends_on_length(&self) -> bool {
        self.longer.is_some()
    }

    /// The reverse pass of [`Rotary::apply`]: from the gradients of what it gives to those of what it was given.
    pub(crate) fn apply_back(&self, slopes: &mut [f32], head_width: usize, columns: usize, cosines: &[f32], sines: &[f32]) {
        let half = self.width / 2 * columns;
        for head in slopes.chunks_exact_mut(head_width * columns) {
            let (first, second) = head[..2 * half].split_at_mut(half);
            for (((x, y), &cosine), &sine) in first.iter_mut().zip(second).zip(cosines).zip(sines) {
                (*x, *y) = (*x * cosine + *y * sine, *y * cosine - *x * sine);
            }
        }
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
