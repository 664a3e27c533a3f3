//! Figures as SVG and PNG, from one description each: colour-blind safe, labelled with units, readable at half width.

use std::fs::File;
use std::io::BufWriter;
use std::path::{Path, PathBuf};
use std::sync::OnceLock;

use basin_volume_engine::error::{Context, Error};
use plotters::coord::Shift;
use plotters::coord::ranged1d::Ranged;
use plotters::prelude::*;
use plotters::style::{FontStyle, register_font};

mod axes;
pub(crate) mod curve;
pub(crate) mod heat_map;
pub(crate) mod histogram;
pub(crate) mod ladder;
pub(crate) mod loss;
pub(crate) mod profile;
pub(crate) mod spectrum;
pub(crate) mod trace;

pub(crate) use curve::Curve;
pub(crate) use histogram::Histogram;
pub(crate) use loss::LossCurve;
pub(crate) use profile::RayProfile;
pub(crate) use spectrum::SpectralDensity;
pub(crate) use trace::RadiusTrace;

/// What a backend could not draw.
#[derive(Debug, thiserror::Error)]
#[error("the figure cannot be drawn: {0}")]
pub(crate) struct DrawError(String);

impl<E: std::error::Error + Send + Sync> From<DrawingAreaErrorKind<E>> for DrawError {
    fn from(error: DrawingAreaErrorKind<E>) -> Self {
        Self(error.to_string())
    }
}

/// What drawing gives.
pub(crate) type Drawn<T> = Result<T, DrawError>;

/// Width and height in pixels (PNG) or user units (SVG).
const SIZE: (u32, u32) = (1200, 720);
const FONT: &str = "sans-serif";
const TITLE_SIZE: u32 = 30;
const LABEL_SIZE: u32 = 26;
const TICK_SIZE: u32 = 22;
const GRID: RGBColor = RGBColor(225, 225, 225);
const INK: RGBColor = RGBColor(40, 40, 40);

/// The palette of Okabe and Ito (2008), which readers with any colour vision can tell apart.
const PALETTE: [RGBColor; 6] = [
    RGBColor(0, 114, 178),
    RGBColor(213, 94, 0),
    RGBColor(0, 158, 115),
    RGBColor(204, 121, 167),
    RGBColor(230, 159, 0),
    RGBColor(86, 180, 233),
];

fn color(series: usize) -> RGBColor {
    PALETTE[series % PALETTE.len()]
}

/// Something that can be drawn on any backend.
pub(crate) trait Figure {
    /// Draws into an area that is already white.
    fn draw<B: DrawingBackend>(&self, area: &DrawingArea<B, Shift>) -> Drawn<()>
    where
        B::ErrorType: 'static;
}

/// The fonts are part of the program: figures look the same on a machine without any.
fn register_fonts() -> Drawn<()> {
    static DONE: OnceLock<bool> = OnceLock::new();
    let done = DONE.get_or_init(|| {
        let fonts = [(FontStyle::Normal, dejavu::sans::regular()), (FontStyle::Bold, dejavu::sans::bold())];
        fonts.into_iter().all(|(style, bytes)| register_font(FONT, style, bytes).is_ok())
    });
    if *done { Ok(()) } else { Err(DrawError("the built-in fonts cannot be read".to_owned())) }
}

/// Writes `stem.svg` and `stem.png` into `folder` and returns their paths.
pub(crate) fn save(figure: &impl Figure, folder: &Path, stem: &str) -> Result<Vec<PathBuf>, Error> {
    let (svg, png) = (folder.join(format!("{stem}.svg")), folder.join(format!("{stem}.png")));
    let text = as_svg(figure).map_err(Error::of)?;
    std::fs::write(&svg, text).context(|| format!("cannot write {}", svg.display()))?;
    let pixels = as_pixels(figure).map_err(Error::of)?;
    write_png(&pixels, &png).context(|| format!("cannot write {}", png.display()))?;
    Ok(vec![svg, png])
}

fn as_svg(figure: &impl Figure) -> Drawn<String> {
    register_fonts()?;
    let mut text = String::new();
    {
        let area = SVGBackend::with_string(&mut text, SIZE).into_drawing_area();
        area.fill(&WHITE)?;
        figure.draw(&area)?;
        area.present()?;
    }
    Ok(text)
}

/// Red, green and blue of every pixel, row by row.
fn as_pixels(figure: &impl Figure) -> Drawn<Vec<u8>> {
    register_fonts()?;
    let mut pixels = vec![0; 3 * SIZE.0 as usize * SIZE.1 as usize];
    {
        let area = BitMapBackend::with_buffer(&mut pixels, SIZE).into_drawing_area();
        area.fill(&WHITE)?;
        figure.draw(&area)?;
        area.present()?;
    }
    Ok(pixels)
}

fn write_png(pixels: &[u8], path: &Path) -> Result<(), png::EncodingError> {
    let mut encoder = png::Encoder::new(BufWriter::new(File::create(path)?), SIZE.0, SIZE.1);
    encoder.set_color(png::ColorType::Rgb);
    encoder.set_depth(png::BitDepth::Eight);
    encoder.write_header()?.write_image_data(pixels)
}

fn title(area_width: u32, text: &str) -> TextStyle<'static> {
    // A long title gets smaller rather than running off the page (0.55 em is the mean width of the font's letters).
    let fitting = f64::from(area_width) / (0.56 * text.chars().count().max(1) as f64);
    (FONT, f64::from(TITLE_SIZE).min(fitting)).into_font().color(&INK)
}

fn label_style() -> TextStyle<'static> {
    (FONT, LABEL_SIZE).into_font().color(&INK)
}

fn tick_style() -> TextStyle<'static> {
    (FONT, TICK_SIZE).into_font().color(&INK)
}

/// The legend, the same on every figure.
fn draw_legend<'a, B, X, Y>(chart: &mut ChartContext<'a, B, Cartesian2d<X, Y>>, position: SeriesLabelPosition) -> Drawn<()>
where
    B: DrawingBackend + 'a,
    B::ErrorType: 'static,
    X: Ranged,
    Y: Ranged,
{
    chart
        .configure_series_labels()
        .position(position)
        .background_style(WHITE.mix(0.85))
        .border_style(GRID)
        .legend_area_size(40)
        .margin(14)
        .label_font(tick_style())
        .draw()?;
    Ok(())
}

/// A unit that keeps the numbers on an axis short: (divisor, words).
fn axis_unit(largest: f64) -> (f64, &'static str) {
    match largest {
        x if x >= 2e9 => (1e9, "billion "),
        x if x >= 2e6 => (1e6, "million "),
        x if x >= 2e3 => (1e3, "thousand "),
        _ => (1.0, ""),
    }
}

/// A number with as many decimals as an axis step of `span / 10` needs, and a true minus sign.
fn tick(value: f64, span: f64) -> String {
    let step = span / 10.0;
    let decimals = if step > 0.0 && step.is_finite() { (-step.log10().floor()).clamp(0.0, 9.0) as usize } else { 0 };
    let decimals = if decimals > 0 && step >= 0.5 * 10f64.powi(1 - decimals as i32) { decimals - 1 } else { decimals };
    let text = format!("{value:.decimals$}");
    let zero = text.trim_start_matches('-').chars().all(|c| c == '0' || c == '.');
    if zero { text.trim_start_matches('-').to_owned() } else { text.replace('-', "\u{2212}") }
}

/// The smallest range that holds the values with a margin on both sides; never empty.
fn padded(values: impl Iterator<Item = f64>, margin: f64) -> (f64, f64) {
    let (low, high) = values.filter(|x| x.is_finite()).fold((f64::INFINITY, f64::NEG_INFINITY), |(low, high), x| (low.min(x), high.max(x)));
    if low > high {
        return (0.0, 1.0);
    }
    let span = if high > low { high - low } else { low.abs().max(1.0) * 0.1 };
    (low - margin * span, high + margin * span)
}
