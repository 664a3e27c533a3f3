//! The loss in training against the step.

use plotters::coord::Shift;
use plotters::prelude::*;

use super::axes::{Axis, chart};
use super::{Drawn, Figure, color, draw_legend, padded};

/// Points of the line of the steps, at most.
const POINTS: usize = 300;

/// The figure.
pub(crate) struct LossCurve {
    /// Line above the plot.
    pub title: String,
    /// (step, loss of its batch in nats).
    pub losses: Vec<(f64, f64)>,
    /// Name and (step, cross-entropy in nats) of images that checkpoints were measured on.
    pub checkpoints: Vec<(String, Vec<(f64, f64)>)>,
}

/// Means over stretches of steps that grow with the step, so that all are alike on a logarithmic axis.
fn means(losses: &[(f64, f64)]) -> Vec<(f64, f64)> {
    let growth = (losses.len().max(2) as f64).powf(1.0 / POINTS as f64);
    let mut points = Vec::new();
    let mut start = 0;
    while start < losses.len() {
        let end = (((start + 1) as f64 * growth) as usize).clamp(start + 1, losses.len());
        let stretch = &losses[start..end];
        let count = stretch.len() as f64;
        points.push((stretch.iter().map(|p| p.0).sum::<f64>() / count, stretch.iter().map(|p| p.1).sum::<f64>() / count));
        start = end;
    }
    points
}

impl Figure for LossCurve {
    fn draw<B: DrawingBackend>(&self, area: &DrawingArea<B, Shift>) -> Drawn<()>
    where
        B::ErrorType: 'static,
    {
        let line = means(&self.losses);
        let points = || line.iter().chain(self.checkpoints.iter().flat_map(|series| &series.1));
        let last = points().map(|p| p.0).fold(2.0, f64::max);
        let (_, high) = padded(points().map(|p| p.1), 0.06);
        let x = Axis::logarithmic((0.9, 1.1 * last));
        let mut chart = chart(area, &self.title, x.showing("step"), Axis::linear((0.0, high)).showing("loss (nats per image)"))?;
        let style = color(0).stroke_width(2);
        chart
            .draw_series(LineSeries::new(line, style))?
            .label("batches, as they are trained on")
            .legend(move |(x, y)| PathElement::new([(x, y), (x + 24, y)], style));
        for (number, (name, points)) in self.checkpoints.iter().enumerate().filter(|(_, series)| !series.1.is_empty()) {
            let style = color(number + 1).stroke_width(3);
            let fill = color(number + 1).filled();
            chart
                .draw_series(LineSeries::new(points.iter().copied(), style))?
                .label(format!("{name}, at checkpoints"))
                .legend(move |(x, y)| PathElement::new([(x, y), (x + 24, y)], style));
            chart.draw_series(points.iter().map(|&point| Circle::new(point, 5, fill)))?;
        }
        draw_legend(&mut chart, SeriesLabelPosition::LowerLeft)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn stretches_cover_every_step_once() {
        let losses: Vec<(f64, f64)> = (1..=5000).map(|step| (f64::from(step), 1.0)).collect();
        let points = means(&losses);
        assert!(points.len() < 2 * POINTS && points.iter().all(|point| point.1 == 1.0));
        assert!(points.windows(2).all(|pair| pair[0].0 < pair[1].0) && points[0].0 == 1.0);
        assert!(means(&[]).is_empty());
    }
}
