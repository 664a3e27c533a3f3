//! Tables of text, set up in one place: columns alone, which look the same on a terminal, in a pipe and in an issue.

use comfy_table::{CellAlignment, Table, presets};

/// What stands where there is no number.
pub(crate) const UNKNOWN: &str = "\u{2013}";

/// A table of these columns, the numbers among them at their right edge.
pub fn plain_table(names: &[&str], numbers: &[usize], rows: impl IntoIterator<Item = Vec<String>>) -> String {
    let mut table = Table::new();
    table.load_preset(presets::NOTHING).set_header(names);
    for row in rows {
        table.add_row(row);
    }
    for (place, column) in table.column_iter_mut().enumerate() {
        column.set_padding((0, 2));
        if numbers.contains(&place) {
            column.set_cell_alignment(CellAlignment::Right);
        }
    }
    table.trim_fmt()
}

/// A number, or a dash.
pub(crate) fn or_unknown<T>(value: Option<T>, show: impl Fn(T) -> String) -> String {
    value.map_or_else(|| UNKNOWN.to_owned(), show)
}
