//! Histogram of the log-volumes of the rays, one colour per preconditioner.

use plotters::coord::Shift;
use plotters::prelude::*;

use super::axes::{Axis, chart};
use super::{Drawn, Figure, axis_unit, color, draw_legend, padded};

/// One set of rays.
pub(crate) struct Series {
    /// Name in the legend.
    pub label: String,
    /// Log-volumes in nats; values that are not finite are left out of the bars and counted in the legend.
    pub values: Vec<f64>,
    /// The combined estimate, drawn as a dashed line.
    pub log_mean_exp: f64,
}

/// The figure.
pub(crate) struct Histogram {
    /// Line above the plot.
    pub title: String,
    /// What was counted.
    pub series: Vec<Series>,
}

const MOST_BINS: usize = 60;

/// How many bins a range is cut into, so that none is finer than the values tell: the width of Freedman and Diaconis (*Z. Wahrscheinlichkeitstheorie
/// verw. Gebiete* 57 (1981) 453), 2 IQR / n^(1/3), of the series that asks for the finest.
fn bins<'a>(series: impl Iterator<Item = &'a [f64]>, range: f64) -> usize {
    let width = |values: &[f64]| {
        let mut sorted: Vec<f64> = values.iter().copied().filter(|x| x.is_finite()).collect();
        sorted.sort_by(f64::total_cmp);
        let at = |share: f64| sorted.get((share * sorted.len() as f64) as usize).copied();
        let spread = at(0.75)? - at(0.25)?;
        (spread > 0.0).then(|| 2.0 * spread / (sorted.len() as f64).cbrt())
    };
    let finest = series.filter_map(width).fold(f64::INFINITY, f64::min);
    ((range / finest).ceil() as usize).clamp(5, MOST_BINS)
}

impl Figure for Histogram {
    fn draw<B: DrawingBackend>(&self, area: &DrawingArea<B, Shift>) -> Drawn<()>
    where
        B::ErrorType: 'static,
    {
        let all = || self.series.iter().flat_map(|s| s.values.iter().copied().chain([s.log_mean_exp])).filter(|x| x.is_finite());
        let (unit, unit_name) = axis_unit(all().fold(0.0, |m, x| m.max(x.abs())));
        let (low, high) = padded(all().map(|x| x / unit), 0.04);
        let bins = bins(self.series.iter().map(|series| &*series.values), (high - low) * unit);
        let width = (high - low) / bins as f64;
        let counts: Vec<Vec<usize>> = self
            .series
            .iter()
            .map(|series| {
                let mut counts = vec![0usize; bins];
                for value in series.values.iter().filter(|x| x.is_finite()) {
                    counts[(((value / unit - low) / width) as usize).min(bins - 1)] += 1;
                }
                counts
            })
            .collect();
        let tallest = counts.iter().flatten().max().copied().unwrap_or(1).max(1) as f64;
        // With many series one entry explains all dashed lines; the legend stands above the tallest bar.
        let explains_each = self.series.len() <= 2;
        let entries = if explains_each { 2 * self.series.len() } else { self.series.len() + 1 };
        let headroom = 1.0 / (0.95 - 0.06 * entries.min(12) as f64);
        let x_words = format!("log-volume of a ray, f(u)  ({unit_name}nats)");
        let mut chart = chart(
            area,
            &self.title,
            Axis::linear((low, high)).showing(&x_words),
            Axis::counting((0.0, tallest * headroom)).showing("rays"),
        )?;
        for (number, (series, counts)) in self.series.iter().zip(&counts).enumerate() {
            let fill = color(number).mix(0.55).filled();
            let bars = counts.iter().enumerate().filter(|(_, count)| **count > 0).map(|(bin, &count)| {
                let x = low + width * bin as f64;
                Rectangle::new([(x, 0.0), (x + width, count as f64)], fill)
            });
            let infinite = series.values.iter().filter(|x| !x.is_finite()).count();
            let note = if infinite > 0 { format!(" ({infinite} infinite, not drawn)") } else { String::new() };
            let drawn = chart.draw_series(bars)?;
            // What has no rays is a line alone.
            if !series.values.is_empty() {
                drawn
                    .label(format!("{}: {} rays{note}", series.label, series.values.len()))
                    .legend(move |(x, y)| Rectangle::new([(x, y - 9), (x + 24, y + 9)], fill));
            }
        }
        for (number, series) in self.series.iter().enumerate().filter(|(_, s)| s.log_mean_exp.is_finite()) {
            let x = series.log_mean_exp / unit;
            let style = color(number).stroke_width(3);
            let drawn = chart.draw_series(DashedLineSeries::new([(x, 0.0), (x, tallest * 1.02)], 10, 7, style))?;
            if explains_each || series.values.is_empty() {
                let what = if series.values.is_empty() { "" } else { ": log-mean-exp" };
                drawn.label(format!("{}{what}", series.label)).legend(move |(x, y)| PathElement::new([(x, y), (x + 24, y)], style));
            } else if number == 0 {
                drawn.label("dashed, in its color: log-mean-exp").legend(move |(x, y)| PathElement::new([(x, y), (x + 24, y)], style));
            }
        }
        draw_legend(&mut chart, SeriesLabelPosition::UpperLeft)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bins_are_not_finer_than_the_data() {
        let spread = |n: usize| (0..n).map(|k| k as f64 / n as f64).collect::<Vec<_>>();
        let few = spread(27);
        // An interquartile range of about a half and the cube root of 27 make bins of a third.
        assert_eq!(bins([&*few].into_iter(), 1.0), 5);
        assert_eq!(bins([&*few].into_iter(), 4.0), 12);
        let many = spread(100_000);
        assert_eq!(bins([&*few, &*many].into_iter(), 1.0), 47);
        assert_eq!(bins([&*many].into_iter(), 100.0), MOST_BINS);
        assert_eq!(bins([&[1.0, 1.0][..], &[], &[f64::INFINITY]].into_iter(), 1.0), 5);
    }
}
