//! The radius of every sample, in the order of the indices: a drift or a grid would show here.

use plotters::coord::Shift;
use plotters::prelude::*;

use super::axes::{Axis, chart};
use super::{Drawn, Figure, color, draw_legend, padded};

/// One run.
pub(crate) struct Series {
    /// Name in the legend.
    pub label: String,
    /// (index, radius); infinite radii are counted in the legend.
    pub points: Vec<(u64, f64)>,
}

/// The figure.
pub(crate) struct RadiusTrace {
    /// Line above the plot.
    pub title: String,
    /// Name and unit of the radius.
    pub radius_label: String,
    /// The runs.
    pub series: Vec<Series>,
}

impl Figure for RadiusTrace {
    fn draw<B: DrawingBackend>(&self, area: &DrawingArea<B, Shift>) -> Drawn<()>
    where
        B::ErrorType: 'static,
    {
        let points = || self.series.iter().flat_map(|s| &s.points);
        let (left, right) = padded(points().map(|p| p.0 as f64), 0.02);
        let (low, high) = padded(points().map(|p| p.1), 0.08);
        // Room for the legend above the points.
        let top = high + 0.12 * (high - low) * self.series.len() as f64;
        let x = Axis::counting((left, right));
        let mut chart = chart(area, &self.title, x.showing("index of the ray"), Axis::linear((low, top)).showing(&self.radius_label))?;
        for (number, series) in self.series.iter().enumerate() {
            let fill = color(number).filled();
            let infinite = series.points.iter().filter(|p| !p.1.is_finite()).count();
            let note = if infinite > 0 { format!(" ({infinite} infinite, not drawn)") } else { String::new() };
            let finite = series.points.iter().filter(|p| p.1.is_finite());
            chart
                .draw_series(finite.map(|&(index, radius)| Circle::new((index as f64, radius), 5, fill)))?
                .label(format!("{}{note}", series.label))
                .legend(move |(x, y)| Circle::new((x + 12, y), 6, fill));
        }
        draw_legend(&mut chart, SeriesLabelPosition::UpperRight)
    }
}
