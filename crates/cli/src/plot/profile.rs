//! The cost along one or several rays.

use anyhow::Result;
use plotters::coord::Shift;
use plotters::prelude::*;

use super::{Figure, GRID, INK, color, draw_legend, label_style, padded, tick, tick_style, title};

/// The cost along one ray.
pub struct Series {
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
pub struct RayProfile {
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
    fn draw<B: DrawingBackend>(&self, area: &DrawingArea<B, Shift>) -> Result<()>
    where
        B::ErrorType: 'static,
    {
        let drawable = |p: &&(f64, f64)| p.1.is_finite() && p.1 > 0.0;
        let points = || self.series.iter().flat_map(|s| s.points.iter().filter(drawable));
        let (_, right) = padded(points().map(|p| p.0), 0.02);
        let (low, high) = padded(points().map(|p| p.1.ln()).chain([self.cutoff.ln()]), 0.05);
        let mut chart = ChartBuilder::on(area)
            .caption(&self.title, title(area.dim_in_pixel().0, &self.title))
            .margin(20)
            .x_label_area_size(76)
            .y_label_area_size(120)
            .build_cartesian_2d(0.0..right, (low.exp()..high.exp()).log_scale())?;
        chart
            .configure_mesh()
            .light_line_style(TRANSPARENT)
            .bold_line_style(GRID)
            .axis_style(INK)
            .x_labels(9)
            .y_labels(8)
            .x_desc(&self.distance_label)
            .y_desc("cost  (nats)")
            .axis_desc_style(label_style())
            .label_style(tick_style())
            .x_label_formatter(&|x| tick(*x, right))
            .y_label_formatter(&|y| power_of_ten(*y))
            .draw()?;
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

fn power_of_ten(value: f64) -> String {
    let exponent = value.log10();
    if (exponent - exponent.round()).abs() < 1e-9 && (-2.0..=3.0).contains(&exponent) {
        format!("{value}")
    } else {
        format!("{value:.0e}").replace('-', "\u{2212}")
    }
}
