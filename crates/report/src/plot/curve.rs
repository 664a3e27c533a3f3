//! Log-volumes against what a scan varies: curves with error bars, bounds marked as such.

use plotters::coord::Shift;
use plotters::prelude::*;

use super::axes::{Axis, chart};
use super::{Drawn, Figure, INK, axis_unit, color, draw_legend, padded};

/// One value with its interval.
#[derive(Debug, Clone)]
pub(crate) struct Point {
    /// What is varied.
    pub x: f64,
    /// The estimate.
    pub y: f64,
    /// Ends of the interval, where they are known.
    pub low: Option<f64>,
    /// See `low`.
    pub high: Option<f64>,
    /// Whether the truth may be far above: a triangle instead of a circle.
    pub is_bound: bool,
}

/// One curve.
pub(crate) struct Series {
    /// Name in the legend.
    pub label: String,
    /// Which colour of the palette.
    pub color: usize,
    /// Which of several models: the first has full marks and a full line, the others hollow marks and broken lines.
    pub style: usize,
    /// From the left.
    pub points: Vec<Point>,
    /// A value that holds everywhere: a line across, in place of points.
    pub level: Option<f64>,
}

/// How the horizontal axis is divided.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Scale {
    /// Evenly.
    Linear,
    /// By factors; zero stands at the left end.
    Logarithmic,
}

/// The figure.
pub(crate) struct Curve {
    /// Line above the plot.
    pub title: String,
    /// Name and unit of what is varied.
    pub x_label: String,
    /// How it is divided.
    pub scale: Scale,
    /// What is shown.
    pub y_label: String,
    /// Unit of what is shown; the numbers may be in thousands or millions of it.
    pub y_unit: &'static str,
    /// Whether the vertical axis is logarithmic; all values are positive then.
    pub is_y_logarithmic: bool,
    /// The curves.
    pub series: Vec<Series>,
}

impl Figure for Curve {
    fn draw<B: DrawingBackend>(&self, area: &DrawingArea<B, Shift>) -> Drawn<()>
    where
        B::ErrorType: 'static,
    {
        let points = || self.series.iter().flat_map(|series| &series.points);
        let x = self.horizontal();
        let place = |value: f64| if self.scale == Scale::Logarithmic && value <= 0.0 { x.low() * 1.25 } else { value };
        let levels = || self.series.iter().filter_map(|series| series.level);
        let largest = points().map(|point| point.y.abs()).chain(levels().map(f64::abs)).fold(0.0, f64::max);
        let (unit, words) = if self.is_y_logarithmic { (1.0, "") } else { axis_unit(largest) };
        let ends = || points().flat_map(|point| [Some(point.y), point.low, point.high]).flatten().chain(levels());
        let y = |(low, high): (f64, f64)| {
            if self.is_y_logarithmic { Axis::logarithmic((low.exp(), high.exp())) } else { Axis::linear((low, high)) }
        };
        let (low, high) = if self.is_y_logarithmic {
            padded(ends().filter(|y| *y > 0.0).map(f64::ln), 0.06)
        } else {
            padded(ends().map(|y| y / unit), 0.06)
        };
        // The legend stands in the emptiest corner, and gets room of its own where even that is not empty.
        let ends = y((low, high));
        let corner = self.corner((x.low(), x.high()), (ends.low() * unit, ends.high() * unit), &place);
        let room = if corner.is_empty { 0.0 } else { (high - low) * corner.height / (1.0 - corner.height) };
        let y = y(if corner.is_high { (low, high + room) } else { (low - room, high) });
        let (left, right, bottom, top) = (x.low(), x.high(), y.low(), y.high());
        let y_words = format!("{}  ({words}{})", self.y_label, self.y_unit);
        let mut chart = chart(area, &self.title, x.clone().showing(&self.x_label), y.showing(&y_words))?;
        for series in &self.series {
            let ink = color(series.color);
            let line_style = ink.stroke_width(3);
            let mut line: Vec<(f64, f64)> = series.points.iter().map(|point| (place(point.x), point.y / unit)).collect();
            if let Some(level) = series.level {
                line = vec![(left, level / unit), (right, level / unit)];
            }
            let is_full = series.style == 0 && series.level.is_none();
            let gap = if series.level.is_some() { (3, 6) } else { (12, 4 + 4 * series.style as u32) };
            let drawn = if is_full {
                chart.draw_series(LineSeries::new(line.clone(), line_style))?
            } else {
                chart.draw_series(DashedLineSeries::new(line.clone(), gap.0, gap.1, line_style))?
            };
            let (is_hollow, has_points) = (series.style > 0, series.level.is_none());
            drawn.label(&series.label).legend(move |at| {
                let dash = |from: i32, to: i32| PathElement::new([(from, 0), (to, 0)], line_style);
                let dashes = if is_full { [dash(0, 12), dash(11, 23), dash(22, 34)] } else { [dash(0, 8), dash(13, 21), dash(26, 34)] };
                let [first, second, third] = dashes;
                let radius = if has_points { 6 } else { 0 };
                let fill = if is_hollow { WHITE.filled() } else { ink.filled() };
                EmptyElement::at(at)
                    + first
                    + second
                    + third
                    + Circle::new((17, 0), radius, fill)
                    + Circle::new((17, 0), radius, line_style)
            });
            for point in series.points.iter().filter(|_| has_points) {
                let (x, y) = (place(point.x), point.y / unit);
                let clipped = |end: f64| (end / unit).clamp(bottom, top);
                let (low, high) = (point.low.map_or(y, clipped), point.high.map_or(y, clipped));
                if high > low {
                    chart.draw_series([ErrorBar::new_vertical(x, low, y, high, ink.stroke_width(2).filled(), 14)])?;
                }
                let fill = if is_hollow { WHITE.filled() } else { ink.filled() };
                if point.is_bound {
                    chart.draw_series([TriangleMarker::new((x, y), 11, ink.filled())])?;
                    if is_hollow {
                        chart.draw_series([TriangleMarker::new((x, y), 6, fill)])?;
                    }
                } else {
                    chart.draw_series([Circle::new((x, y), 7, fill)])?;
                    chart.draw_series([Circle::new((x, y), 7, ink.stroke_width(3))])?;
                }
            }
        }
        if points().any(|point| point.is_bound) {
            let triangle = |(x, y): (i32, i32)| TriangleMarker::new((x + 17, y), 10, INK.filled());
            chart.draw_series(std::iter::empty::<Circle<(f64, f64), i32>>())?.label("triangle: lower bound in practice").legend(triangle);
        }
        draw_legend(&mut chart, corner.position)
    }
}

impl Curve {
    fn horizontal(&self) -> Axis {
        let all = || self.series.iter().flat_map(|series| &series.points).map(|point| point.x);
        match self.scale {
            Scale::Linear => Axis::linear(padded(all(), 0.03)),
            Scale::Logarithmic => {
                let (low, high) = padded(all().filter(|x| *x > 0.0).map(f64::ln), 0.03);
                if all().any(|x| x <= 0.0) {
                    let left = (low.exp() / 3.0).max(f64::MIN_POSITIVE);
                    return Axis::logarithmic((left, high.exp())).with_zero_at(left * 1.25);
                }
                Axis::logarithmic((low.exp(), high.exp()))
            }
        }
    }

    /// The corner where the legend covers the least.
    fn corner(&self, (left, right): (f64, f64), (bottom, top): (f64, f64), place: &dyn Fn(f64) -> f64) -> Corner {
        let share = |value: f64, low: f64, high: f64, is_logarithmic: bool| {
            if is_logarithmic { (value / low).ln() / (high / low).ln() } else { (value - low) / (high - low) }
        };
        let across = |x: f64| share(place(x), left, right, self.scale == Scale::Logarithmic);
        let along = |y: f64| share(y, bottom, top, self.is_y_logarithmic);
        // About the size of the legend, as shares of the plot.
        let has_bounds = self.series.iter().any(|series| series.points.iter().any(|point| point.is_bound));
        let longest = self.series.iter().map(|series| series.label.chars().count()).max().unwrap_or(0).max(if has_bounds { 34 } else { 0 });
        let width = (0.06 + 0.0105 * longest as f64).min(0.8);
        let height = (0.05 + 0.05 * (self.series.len() + usize::from(has_bounds)) as f64).min(0.6);
        let mut covered: Vec<(f64, f64)> = Vec::new();
        for series in &self.series {
            let ends = |point: &Point| {
                [Some(point.y), point.low, point.high].into_iter().flatten().map(|y| (across(point.x), along(y))).collect::<Vec<_>>()
            };
            covered.extend(series.points.iter().flat_map(ends));
            // Between two points the line is covered too.
            for pair in series.points.windows(2) {
                let (from, to) = ((across(pair[0].x), along(pair[0].y)), (across(pair[1].x), along(pair[1].y)));
                covered.extend((1..8).map(|k| f64::from(k) / 8.0).map(|t| (from.0 + t * (to.0 - from.0), from.1 + t * (to.1 - from.1))));
            }
            covered.extend(
                series
                    .level
                    .iter()
                    .flat_map(|&level| (0..=10).map(move |k| f64::from(k) / 10.0).map(move |x| (x, level)))
                    .map(|(x, y)| (x, along(y))),
            );
        }
        let count = |is_right: bool, is_high: bool| {
            let is_inside = |&&(x, y): &&(f64, f64)| {
                let (x, y) = (if is_right { 1.0 - x } else { x }, if is_high { 1.0 - y } else { y });
                x < width && y < height
            };
            covered.iter().filter(is_inside).count()
        };
        let corners = [
            (SeriesLabelPosition::UpperRight, true, true),
            (SeriesLabelPosition::UpperLeft, false, true),
            (SeriesLabelPosition::LowerRight, true, false),
            (SeriesLabelPosition::LowerLeft, false, false),
        ];
        let counted = corners.map(|(position, is_right, is_high)| (count(is_right, is_high), position, is_high));
        let mut best = Corner { position: SeriesLabelPosition::UpperRight, is_high: true, is_empty: counted[0].0 == 0, height };
        let mut fewest = counted[0].0;
        for (count, position, is_high) in counted {
            if count < fewest {
                fewest = count;
                best = Corner { position, is_high, is_empty: count == 0, height };
            }
        }
        best
    }
}

/// Where the legend stands.
struct Corner {
    position: SeriesLabelPosition,
    is_high: bool,
    /// Whether it covers nothing there.
    is_empty: bool,
    /// Its height, as a share of the plot's.
    height: f64,
}
