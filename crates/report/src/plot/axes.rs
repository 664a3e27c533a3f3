//! Axes and mesh, the same on every figure.

use std::ops::Range;

use plotters::coord::Shift;
use plotters::coord::ranged1d::{KeyPointHint, NoDefaultFormatting, Ranged, ValueFormatter};
use plotters::prelude::*;

use basin_volume_engine::numbers::grouped;

use super::{Drawn, GRID, INK, label_style, tick, tick_style, title};

/// Most marks on an axis, so that their numbers do not touch.
const MOST_TICKS: usize = 9;

/// An axis from `low` to `high`, straight or logarithmic.
#[derive(Debug, Clone)]
pub(super) struct Axis {
    low: f64,
    high: f64,
    is_logarithmic: bool,
    /// Whether only whole numbers have a mark.
    is_counting: bool,
    /// Where a logarithmic axis shows zero, if it does.
    zero: Option<f64>,
}

impl Axis {
    /// A straight axis.
    pub fn linear((low, high): (f64, f64)) -> Self {
        Self { low, high, is_logarithmic: false, is_counting: false, zero: None }
    }

    /// A straight axis of whole numbers.
    pub fn counting(ends: (f64, f64)) -> Self {
        Self { is_counting: true, ..Self::linear(ends) }
    }

    /// A logarithmic axis; both ends are positive.
    pub fn logarithmic((low, high): (f64, f64)) -> Self {
        Self { low, high, is_logarithmic: true, is_counting: false, zero: None }
    }

    /// The same, with a place for zero: left of everything else.
    pub fn with_zero_at(self, zero: f64) -> Self {
        Self { zero: Some(zero), ..self }
    }

    /// Lower end.
    pub fn low(&self) -> f64 {
        self.low
    }

    /// Upper end.
    pub fn high(&self) -> f64 {
        self.high
    }

    fn scaled(&self, value: f64) -> f64 {
        if self.is_logarithmic { value.max(f64::MIN_POSITIVE).ln() } else { value }
    }

    /// Powers of ten, or where these are too few one, two and five times them.
    fn decades(&self) -> Vec<f64> {
        let (first, last) = (self.low.log10(), self.high.log10());
        let powers: Vec<i32> = (first.ceil() as i32..=last.floor() as i32).collect();
        let stride = powers.len().div_ceil(MOST_TICKS).max(1) as i32;
        let mut ticks: Vec<f64> =
            powers.iter().filter(|power| power.rem_euclid(stride) == 0 || stride == 1).map(|&power| 10f64.powi(power)).collect();
        if ticks.len() < 3 {
            let around = first.floor() as i32..=last.ceil() as i32;
            ticks = around.flat_map(|power| [1.0, 2.0, 5.0].map(|digit| digit * 10f64.powi(power))).collect();
            ticks.retain(|tick| (self.low..=self.high).contains(tick));
        }
        if ticks.len() < 3 { self.steps() } else { ticks }
    }

    /// Multiples of one, two or five times a power of ten.
    fn steps(&self) -> Vec<f64> {
        let rough = (self.high - self.low) / (MOST_TICKS as f64 - 1.0);
        if !(rough > 0.0 && rough.is_finite()) {
            return vec![self.low];
        }
        let power = 10f64.powf(rough.log10().floor());
        let step = [1.0, 2.0, 5.0, 10.0].map(|digit| digit * power).into_iter().find(|step| *step >= rough).unwrap_or(power);
        let step = if self.is_counting { step.max(1.0) } else { step };
        let (first, last) = ((self.low / step).ceil() as i64, (self.high / step).floor() as i64);
        (first..=last).map(|k| k as f64 * step).collect()
    }
}

impl Ranged for Axis {
    type FormatOption = NoDefaultFormatting;
    type ValueType = f64;

    fn map(&self, value: &f64, limit: (i32, i32)) -> i32 {
        let (low, high) = (self.scaled(self.low), self.scaled(self.high));
        let share = if high > low { ((self.scaled(*value) - low) / (high - low)).clamp(-1.0, 2.0) } else { 0.5 };
        limit.0 + (share * f64::from(limit.1 - limit.0)).round() as i32
    }

    fn key_points<Hint: KeyPointHint>(&self, _hint: Hint) -> Vec<f64> {
        let mut ticks = if self.is_logarithmic { self.decades() } else { self.steps() };
        if let Some(zero) = self.zero {
            // The mark of zero, and none that would touch it.
            ticks.retain(|tick| *tick >= 2.0 * zero);
            ticks.insert(0, zero);
        }
        ticks
    }

    fn range(&self) -> Range<f64> {
        self.low..self.high
    }
}

impl ValueFormatter<f64> for Axis {
    fn format_ext(&self, value: &f64) -> String {
        if self.zero == Some(*value) {
            return "0".to_owned();
        }
        match (self.is_logarithmic, self.is_counting) {
            (true, _) => power(*value, PLAIN.contains(&self.low) && PLAIN.contains(&self.high)),
            (false, true) => format!("{value:.0}"),
            (false, false) => tick(*value, (self.high - self.low).abs()),
        }
    }
}

/// Within these bounds all marks of a logarithmic axis are written out, beyond them none is.
const PLAIN: Range<f64> = 9e-4..2e6;

/// A number of a logarithmic axis.
fn power(value: f64, is_plain: bool) -> String {
    let text = if is_plain && value >= 1.0 {
        grouped(format!("{value:.0}"))
    } else if is_plain {
        // Two digits are all that a mark can have.
        let decimals = (-value.log10().floor()).max(0.0) as usize;
        format!("{value:.decimals$}")
    } else {
        format!("{value:.0e}")
    };
    text.replace('-', "\u{2212}")
}

/// An axis with what it shows.
pub(super) struct Labelled<'a> {
    /// The axis.
    pub axis: Axis,
    /// What it shows, with its unit.
    pub words: &'a str,
}

impl Axis {
    /// The axis with what it shows.
    pub(super) fn showing(self, words: &str) -> Labelled<'_> {
        Labelled { axis: self, words }
    }
}

/// A chart with its title, axes and mesh; the axes come with what they show.
pub(super) fn chart<'a, B>(
    area: &DrawingArea<B, Shift>,
    heading: &str,
    across: Labelled<'_>,
    along: Labelled<'_>,
) -> Drawn<ChartContext<'a, B, Cartesian2d<Axis, Axis>>>
where
    B: DrawingBackend,
    B::ErrorType: 'static,
{
    let (Labelled { axis: x, words: x_words }, Labelled { axis: y, words: y_words }) = (across, along);
    let mut chart = ChartBuilder::on(area)
        .caption(heading, title(area.dim_in_pixel().0, heading))
        .margin(20)
        .x_label_area_size(76)
        .y_label_area_size(120)
        .build_cartesian_2d(x, y)?;
    chart
        .configure_mesh()
        .light_line_style(TRANSPARENT)
        .bold_line_style(GRID)
        .axis_style(INK)
        .x_desc(x_words)
        .y_desc(y_words)
        .axis_desc_style(label_style())
        .label_style(tick_style())
        .draw()?;
    Ok(chart)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn marks(axis: &Axis) -> Vec<String> {
        axis.key_points(10).iter().map(|value| axis.format_ext(value)).collect()
    }

    #[test]
    fn marks_are_round_and_few() {
        assert_eq!(marks(&Axis::linear((-0.02, 1.02))), ["0.0", "0.2", "0.4", "0.6", "0.8", "1.0"]);
        assert_eq!(marks(&Axis::linear((-2.9, -0.3))), ["\u{2212}2.5", "\u{2212}2.0", "\u{2212}1.5", "\u{2212}1.0", "\u{2212}0.5"]);
        assert_eq!(marks(&Axis::counting((0.0, 3.4))), ["0", "1", "2", "3"]);
        assert_eq!(marks(&Axis::logarithmic((0.7, 130.0))), ["1", "10", "100"]);
        assert_eq!(marks(&Axis::logarithmic((8e-7, 120.0))).len(), 9);
        assert_eq!(marks(&Axis::logarithmic((1e-20, 1.0))).len(), 7);
        assert_eq!(marks(&Axis::logarithmic((0.2, 3.0))), ["0.2", "0.5", "1", "2"]);
        assert_eq!(marks(&Axis::logarithmic((0.5, 2e5)).with_zero_at(0.5)), ["0", "1", "10", "100", "1,000", "10,000", "100,000"]);
        assert!(marks(&Axis::logarithmic((1.2, 1.9))).len() >= 3);
        // One notation on an axis.
        assert_eq!(marks(&Axis::logarithmic((5e-4, 2.0))), ["1e\u{2212}3", "1e\u{2212}2", "1e\u{2212}1", "1e0"]);
        assert_eq!(marks(&Axis::logarithmic((1e-3, 2.0))), ["0.001", "0.01", "0.1", "1"]);
    }

    #[test]
    fn values_go_where_they_belong() {
        let axis = Axis::logarithmic((1.0, 100.0));
        assert_eq!(axis.map(&10.0, (0, 1000)), 500);
        assert_eq!(Axis::linear((0.0, 4.0)).map(&1.0, (1000, 0)), 750);
    }
}
