//! The log-volume along a ladder of rungs, on the way outward and on the way back: a gap between the two is what was not in equilibrium.

use plotters::coord::Shift;
use plotters::prelude::*;

use super::axes::{Axis, chart};
use super::{Drawn, Figure, axis_unit, color, draw_legend, padded};

/// One way along the ladder.
pub(crate) struct Series {
    /// Name in the legend.
    pub label: String,
    /// (number of the rung, log-volume in nats).
    pub points: Vec<(f64, f64)>,
}

/// The figure.
pub(crate) struct Ladder {
    /// Line above the plot.
    pub title: String,
    /// The ways.
    pub series: Vec<Series>,
}

impl Figure for Ladder {
    fn draw<B: DrawingBackend>(&self, area: &DrawingArea<B, Shift>) -> Drawn<()>
    where
        B::ErrorType: 'static,
    {
        let points = || self.series.iter().flat_map(|s| &s.points);
        let (left, right) = padded(points().map(|p| p.0), 0.02);
        let (unit, words) = axis_unit(points().map(|p| p.1.abs()).fold(0.0, f64::max));
        let (low, high) = padded(points().map(|p| p.1 / unit), 0.06);
        let y_words = format!("ln E exp(\u{2212}\u{3b2}C)  ({words}nats)");
        let mut chart = chart(
            area,
            &self.title,
            Axis::counting((left, right)).showing("rung, from the known end to the wanted density"),
            Axis::linear((low, high)).showing(&y_words),
        )?;
        for (number, series) in self.series.iter().enumerate() {
            let style = color(number).stroke_width(3);
            let line: Vec<(f64, f64)> = series.points.iter().map(|&(rung, value)| (rung, value / unit)).collect();
            chart
                .draw_series(LineSeries::new(line.clone(), style))?
                .label(&series.label)
                .legend(move |(x, y)| PathElement::new([(x, y), (x + 24, y)], style));
            // Hollow marks on the way back, so that agreement shows both.
            let mark = if number % 2 == 0 { color(number).filled() } else { style };
            chart.draw_series(line.into_iter().map(|point| Circle::new(point, if number % 2 == 0 { 5 } else { 8 }, mark)))?;
        }
        draw_legend(&mut chart, SeriesLabelPosition::LowerLeft)
    }
}
