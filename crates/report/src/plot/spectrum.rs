//! The spectral density of the Fisher matrix: eigenvalues per decade, both axes logarithmic.

use std::collections::BTreeMap;

use plotters::coord::Shift;
use plotters::prelude::*;

use super::axes::{Axis, chart};
use super::{Drawn, Figure, color, draw_legend};

/// Bars per decade.
const BARS: f64 = 4.0;

/// Eigenvalues below this part of the largest are rounding, or the node at zero.
const SMALLEST: f64 = 1e-14;

/// The figure.
pub(crate) struct SpectralDensity {
    /// Line above the plot.
    pub title: String,
    /// Eigenvalues above zero (nodes of a quadrature rule) with their multiplicities.
    pub nodes: Vec<(f64, f64)>,
    /// Eigenvalues above this one narrow the volume: `1/(beta sigma^2)`.
    pub threshold: Option<f64>,
}

impl Figure for SpectralDensity {
    fn draw<B: DrawingBackend>(&self, area: &DrawingArea<B, Shift>) -> Drawn<()>
    where
        B::ErrorType: 'static,
    {
        let largest = self.nodes.iter().map(|node| node.0).fold(0.0, f64::max);
        let mut bars: BTreeMap<i64, f64> = BTreeMap::new();
        for (value, multiplicity) in self.nodes.iter().filter(|node| node.0 > SMALLEST * largest) {
            *bars.entry((BARS * value.log10()).floor() as i64).or_default() += BARS * multiplicity;
        }
        let edge = |bar: i64| 10f64.powf(bar as f64 / BARS);
        let (first, last) = (bars.keys().next().copied().unwrap_or(0), bars.keys().next_back().copied().unwrap_or(0));
        let threshold = self.threshold.filter(|value| *value > 0.0 && value.is_finite());
        let inside = |value: f64| value.max(edge(first) / 10.0).min(edge(last + 1) * 10.0);
        let left = threshold.map_or(edge(first), |value| inside(value).min(edge(first))) / 1.5;
        let right = threshold.map_or(edge(last + 1), |value| inside(value).max(edge(last + 1))) * 1.5;
        let (low, high) = bars.values().fold((f64::INFINITY, 0.0f64), |(low, high), &x| (low.min(x), high.max(x)));
        // Whole decades, and room for the legend.
        let bottom = 10f64.powf((low.max(1e-3 * BARS)).log10().floor()).min(1.0);
        let top = 10f64.powf(high.log10() + 0.25 * (high / bottom).log10().max(1.0));
        let mut chart = chart(
            area,
            &self.title,
            Axis::logarithmic((left, right)).showing("eigenvalue  (nats per squared unit of weight)"),
            Axis::logarithmic((bottom, top)).showing("eigenvalues per decade"),
        )?;
        let fill = color(0).mix(0.8).filled();
        chart
            .draw_series(
                bars.iter()
                    .filter(|(_, height)| **height > bottom)
                    .map(|(&bar, &height)| Rectangle::new([(edge(bar), bottom), (edge(bar + 1), height)], fill)),
            )?
            .label("density of the eigenvalues")
            .legend(move |(x, y)| Rectangle::new([(x, y - 8), (x + 24, y + 8)], fill));
        if let Some(value) = threshold.map(inside) {
            let style = color(1).stroke_width(3);
            chart
                .draw_series(DashedLineSeries::new([(value, bottom), (value, top)], 10, 7, style))?
                .label("1/(\u{3b2}\u{3c3}\u{b2}): larger eigenvalues narrow the volume")
                .legend(move |(x, y)| PathElement::new([(x, y), (x + 24, y)], style));
        }
        draw_legend(&mut chart, SeriesLabelPosition::UpperRight)
    }
}
