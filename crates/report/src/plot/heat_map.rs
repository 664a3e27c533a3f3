//! Numbers by two whole coordinates, as a map of colours with the numbers in it.

use plotters::coord::Shift;
use plotters::prelude::*;
use plotters::style::text_anchor::{HPos, Pos, VPos};

use super::{Drawn, FONT, Figure, INK, TICK_SIZE, label_style, tick_style, title};

/// One number.
pub(crate) struct Cell {
    /// From the top, from 0.
    pub row: usize,
    /// From the left, from 0.
    pub column: usize,
    pub value: f64,
}

/// The figure.
pub(crate) struct HeatMap {
    /// Line above the plot.
    pub title: String,
    pub x_label: &'static str,
    pub y_label: &'static str,
    pub cells: Vec<Cell>,
}

/// Five colours of the map viridis, which grows in lightness for any colour vision: the least number is dark.
const STOPS: [RGBColor; 5] =
    [RGBColor(68, 1, 84), RGBColor(59, 82, 139), RGBColor(33, 145, 140), RGBColor(94, 201, 98), RGBColor(253, 231, 37)];

/// The colour at a share from 0 to 1.
fn shade(share: f64) -> RGBColor {
    let place = share.clamp(0.0, 1.0) * (STOPS.len() - 1) as f64;
    let first = (place as usize).min(STOPS.len() - 2);
    let part = place - first as f64;
    let mix = |one: u8, two: u8| (f64::from(one) + part * (f64::from(two) - f64::from(one))).round() as u8;
    let (one, two) = (STOPS[first], STOPS[first + 1]);
    RGBColor(mix(one.0, two.0), mix(one.1, two.1), mix(one.2, two.2))
}

/// A number in five letters or so.
fn brief(value: f64) -> String {
    match value.abs() {
        size if size >= 1e6 => format!("{:.1}M", value / 1e6),
        size if size >= 1e4 => format!("{:.1}k", value / 1e3),
        size if size >= 100.0 => format!("{value:.0}"),
        _ => format!("{value:.1}"),
    }
}

impl Figure for HeatMap {
    fn draw<B: DrawingBackend>(&self, area: &DrawingArea<B, Shift>) -> Drawn<()>
    where
        B::ErrorType: 'static,
    {
        let (width, height) = area.dim_in_pixel();
        let (left, top, right, bottom) = (110, 80, 30, 90);
        let rows = self.cells.iter().map(|cell| cell.row).max().map_or(1, |row| row + 1);
        let columns = self.cells.iter().map(|cell| cell.column).max().map_or(1, |column| column + 1);
        let (low, high) =
            self.cells.iter().fold((f64::INFINITY, f64::NEG_INFINITY), |(low, high), cell| (low.min(cell.value), high.max(cell.value)));
        let across = f64::from(width as i32 - left - right) / columns as f64;
        let down = f64::from(height as i32 - top - bottom) / rows as f64;
        let x = |column: usize| left + (across * column as f64).round() as i32;
        let y = |row: usize| top + (down * row as f64).round() as i32;
        let centered = Pos::new(HPos::Center, VPos::Center);
        area.draw(&Text::new(self.title.clone(), (width as i32 / 2, 40), title(width, &self.title).pos(centered)))?;
        for cell in &self.cells {
            let share = if high > low { (cell.value - low) / (high - low) } else { 0.5 };
            let corners = [(x(cell.column), y(cell.row)), (x(cell.column + 1), y(cell.row + 1))];
            area.draw(&Rectangle::new(corners, shade(share).filled()))?;
            let text = brief(cell.value);
            // Numbers that do not fit are left to the table.
            let size = f64::from(TICK_SIZE).min(0.6 * down).min(across / (0.62 * text.len() as f64));
            if size >= 9.0 {
                let ink = if share < 0.6 { WHITE } else { INK };
                let style = (FONT, size).into_font().color(&ink).pos(centered);
                let middle = ((corners[0].0 + corners[1].0) / 2, (corners[0].1 + corners[1].1) / 2);
                area.draw(&Text::new(text, middle, style))?;
            }
        }
        // So many labels as have room.
        let every = |count: usize, room: f64, least: f64| (1..=count).find(|step| room * *step as f64 >= least).unwrap_or(count);
        if columns > 1 {
            for column in (0..columns).step_by(every(columns, across, 34.0)) {
                let middle = ((x(column) + x(column + 1)) / 2, y(rows) + 20);
                area.draw(&Text::new(column.to_string(), middle, tick_style().pos(centered)))?;
            }
        }
        for row in (0..rows).step_by(every(rows, down, 24.0)) {
            let middle = (left - 22, (y(row) + y(row + 1)) / 2);
            area.draw(&Text::new(row.to_string(), middle, tick_style().pos(centered)))?;
        }
        area.draw(&Text::new(self.x_label, ((left + width as i32 - right) / 2, height as i32 - 36), label_style().pos(centered)))?;
        let style = label_style().transform(FontTransform::Rotate270).pos(centered);
        Ok(area.draw(&Text::new(self.y_label, (36, (top + height as i32 - bottom) / 2), style))?)
    }
}

#[cfg(test)]
mod tests {
    use super::super::as_svg;
    use super::*;

    #[test]
    fn every_number_is_drawn_where_it_fits() {
        let cells = (0..6).map(|i| Cell { row: i / 3, column: i % 3, value: -1000.0 * i as f64 - 0.5 }).collect();
        let svg = as_svg(&HeatMap { title: "Heads".to_owned(), x_label: "head", y_label: "layer", cells }).unwrap();
        for word in ["Heads", "head", "layer", "-0.5", "-1000", "-5000"] {
            assert!(svg.contains(word), "{word}");
        }
        // One component, whose colour says nothing, and more than numbers can be written of.
        let one = HeatMap { title: String::new(), x_label: "", y_label: "layer", cells: vec![Cell { row: 0, column: 0, value: -3.0 }] };
        assert!(as_svg(&one).unwrap().contains("-3.0"));
        let cells = (0..200 * 200).map(|i| Cell { row: i / 200, column: i % 200, value: i as f64 }).collect();
        assert!(as_svg(&HeatMap { title: String::new(), x_label: "head", y_label: "layer", cells }).is_ok());
        assert_eq!((shade(0.0), shade(1.0), shade(0.5)), (STOPS[0], STOPS[4], STOPS[2]));
        assert_eq!([-12.34, 1234.0, -43_210.0, 2.5e7].map(brief), ["-12.3", "1234", "-43.2k", "25.0M"]);
    }
}
