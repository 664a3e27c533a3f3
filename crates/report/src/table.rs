//! Tables of text, set up in one place.

use comfy_table::{CellAlignment, ContentArrangement, Table, presets};

/// What stands where there is no number.
pub(crate) const UNKNOWN: &str = "\u{2013}";

/// How a table looks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Look {
    /// With lines around its cells.
    Boxed,
    /// Columns alone.
    Plain,
}

/// A table.
pub(crate) struct Columns<'a> {
    /// How it looks.
    pub look: Look,
    /// Heads of the columns.
    pub names: &'a [&'a str],
    /// Columns of numbers, which stand at their right edge.
    pub numbers: &'a [usize],
    /// Width to which words wrap, if any do.
    pub width: Option<u16>,
}

impl<'a> Columns<'a> {
    /// A boxed table of these columns.
    pub fn boxed(names: &'a [&'a str], numbers: &'a [usize]) -> Self {
        Self { look: Look::Boxed, names, numbers, width: None }
    }

    /// The table of these rows.
    pub fn table(&self, rows: impl IntoIterator<Item = Vec<String>>) -> String {
        let mut table = Table::new();
        table.load_preset(if self.look == Look::Boxed { presets::UTF8_FULL_CONDENSED } else { presets::NOTHING }).set_header(self.names);
        if let Some(width) = self.width {
            table.set_content_arrangement(ContentArrangement::Dynamic).set_width(width);
        }
        for row in rows {
            table.add_row(row);
        }
        for &column in self.numbers {
            if let Some(column) = table.column_mut(column) {
                column.set_cell_alignment(CellAlignment::Right);
            }
        }
        table.to_string()
    }
}

/// A table that lists names and numbers without lines, its numbers in these columns; for commands.
pub fn plain_table(names: &[&str], numbers: &[usize], rows: impl IntoIterator<Item = Vec<String>>) -> String {
    Columns { look: Look::Plain, names, numbers, width: None }.table(rows)
}

/// A number, or a dash.
pub(crate) fn or_unknown<T>(value: Option<T>, show: impl Fn(T) -> String) -> String {
    value.map_or_else(|| UNKNOWN.to_owned(), show)
}
