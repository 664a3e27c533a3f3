//! The cost along one or several rays.

use plotters::coord::Shift;
use plotters::prelude::*;

use super::axes::{Axis, chart};
use super::{Drawn, Figure, INK, color, draw_legend, padded};

/// The cost along one ray.
pub(crate) struct Series {
    /// Name in the legend, if it has one of its own.
    pub label: Option<String>,
    /// Which colour of the palette.
    pub color: usize,
    /// (distance, cost in nats); costs that are not finite or not positive are left out.
    pub points: Vec<(f64, f64)>,
    /// Where the cost first crosses the cutoff, if it does.
    pub radius: Option<f64>,
}

/// The figure.
pub(crate) struct RayProfile {
    /// Line above the plot.
    pub title: String,
    /// Name and unit of the distance.
    pub distance_label: String,
    /// The cutoff in nats, drawn as a horizontal line.
    pub cutoff: f64,
    /// The rays.
    pub series: Vec<Series>,
}

impl Figure for RayProfile {
    fn draw<B: DrawingBackend>(&self, area: &DrawingArea<B, Shift>) -> Drawn<()>
    where
        B::ErrorType: 'static,
    {
        let drawable = |p: &&(f64, f64)| p.1.is_finite() && p.1 > 0.0;
        let points = || self.series.iter().flat_map(|s| s.points.iter().filter(drawable));
        let (_, right) = padded(points().map(|p| p.0), 0.02);
        let (low, high) = padded(points().map(|p| p.1.ln()).chain([self.cutoff.ln()]), 0.05);
        let y = Axis::logarithmic((low.exp(), high.exp()));
        let mut chart = chart(area, &self.title, Axis::linear((0.0, right)).showing(&self.distance_label), y.showing("cost  (nats)"))?;
        chart
            .draw_series(DashedLineSeries::new([(0.0, self.cutoff), (right, self.cutoff)], 10, 7, INK.stroke_width(2)))?
            .label(format!("cutoff {} nats", self.cutoff))
            .legend(|(x, y)| PathElement::new([(x, y), (x + 24, y)], INK.stroke_width(2)));
        for series in &self.series {
            let style = color(series.color).stroke_width(3);
            let line: Vec<(f64, f64)> = series.points.iter().filter(drawable).copied().collect();
            let drawn = chart.draw_series(LineSeries::new(line, style))?;
            if let Some(label) = &series.label {
                drawn.label(label).legend(move |(x, y)| PathElement::new([(x, y), (x + 24, y)], style));
            }
            if let Some(radius) = series.radius.filter(|r| r.is_finite()) {
                chart.draw_series([Circle::new((radius, self.cutoff), 7, color(series.color).filled())])?;
            }
        }
        draw_legend(&mut chart, SeriesLabelPosition::LowerRight)
    }
}
