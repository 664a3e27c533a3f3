//! The radius of every sample, in the order of the indices: a drift or a grid would show here.

use anyhow::Result;
use plotters::coord::Shift;
use plotters::prelude::*;

use super::{Figure, GRID, INK, color, draw_legend, label_style, padded, tick, tick_style, title};

/// One run.
pub struct Series {
    /// Name in the legend.
    pub label: String,
    /// (index, radius); infinite radii are counted in the legend.
    pub points: Vec<(u64, f64)>,
}

/// The figure.
pub struct RadiusTrace {
    /// Line above the plot.
    pub title: String,
    /// Name and unit of the radius.
    pub radius_label: String,
    /// The runs.
    pub series: Vec<Series>,
}

impl Figure for RadiusTrace {
    fn draw<B: DrawingBackend>(&self, area: &DrawingArea<B, Shift>) -> Result<()>
    where
        B::ErrorType: 'static,
    {
        let points = || self.series.iter().flat_map(|s| &s.points);
        let (left, right) = padded(points().map(|p| p.0 as f64), 0.02);
        let (low, high) = padded(points().map(|p| p.1), 0.08);
        // Room for the legend above the points.
        let top = high + 0.12 * (high - low) * self.series.len() as f64;
        let mut chart = ChartBuilder::on(area)
            .caption(&self.title, title(area.dim_in_pixel().0, &self.title))
            .margin(20)
            .x_label_area_size(76)
            .y_label_area_size(120)
            .build_cartesian_2d(left..right, low..top)?;
        chart
            .configure_mesh()
            .light_line_style(TRANSPARENT)
            .bold_line_style(GRID)
            .axis_style(INK)
            .x_labels(9)
            .y_labels(8)
            .x_desc("index of the ray")
            .y_desc(&self.radius_label)
            .axis_desc_style(label_style())
            .label_style(tick_style())
            .x_label_formatter(&|x| tick(*x, (right - left).max(10.0)))
            .y_label_formatter(&|y| tick(*y, top - low))
            .draw()?;
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
