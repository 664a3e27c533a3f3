//! A page that needs nothing but itself: style, script and figures are in it.

use std::fmt::Write;
use std::fs;
use std::path::Path;

use basin_volume::run::folder;
use serde_json::Value;

use basin_volume_engine::error::Error;
use basin_volume_engine::files::make_folder_of;

/// Longest list of numbers that is written out among the settings.
const LONGEST_LIST: usize = 24;

/// A page of one run, of several, or of a scan.
pub struct Page {
    pub(crate) title: String,
    /// What was measured, in a line.
    pub(crate) lead: String,
    pub(crate) parts: Vec<Part>,
}

/// A part of a page with its heading; parts without content are left out.
pub(crate) enum Part {
    /// A table whose columns sort.
    Table { heading: String, columns: Vec<Column>, rows: Vec<Vec<Cell>> },
    /// Sentences, each with what it is about.
    Words { heading: String, said: Vec<(String, String)> },
    /// Drawings in SVG with their captions.
    Figures { heading: String, figures: Vec<(String, String)> },
    /// Names and values.
    Settings { heading: String, values: Vec<(String, String)> },
}

/// The head of a column.
pub(crate) struct Column {
    pub name: String,
    pub is_number: bool,
}

/// One cell: what is read, and what it is sorted by.
pub(crate) struct Cell {
    text: String,
    value: String,
}

impl Cell {
    /// A word.
    pub fn text(text: impl Into<String>) -> Self {
        let text = text.into();
        Self { value: text.clone(), text }
    }

    /// A number in the form in which it is read.
    pub fn number(value: Option<f64>, show: impl Fn(f64) -> String) -> Self {
        match value.filter(|value| !value.is_nan()) {
            Some(value) => Self { text: show(value), value: value.to_string() },
            None => Self { text: "\u{2013}".to_owned(), value: String::new() },
        }
    }

    /// Words that are sorted by a number.
    pub fn sorted_by(text: impl Into<String>, value: Option<f64>) -> Self {
        Self { text: text.into(), value: value.map_or_else(String::new, |value| value.to_string()) }
    }
}

/// Columns from their names; those that end in `#` are numbers.
pub(crate) fn columns(names: &[&str]) -> Vec<Column> {
    names.iter().map(|name| Column { name: name.trim_end_matches('#').to_owned(), is_number: name.ends_with('#') }).collect()
}

/// Text as HTML shows it.
fn escape(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;").replace('"', "&quot;")
}

impl Page {
    /// The page with everything that it says in a front's own words: settings stand in backticks before.
    #[must_use]
    pub fn saying(mut self, words: impl Fn(&str) -> String) -> Self {
        for part in &mut self.parts {
            if let Part::Words { said, .. } = part {
                said.iter_mut().for_each(|(_, text)| *text = words(text));
            }
        }
        self
    }

    /// Writes the page.
    ///
    /// # Errors
    /// When it cannot be written.
    pub fn write(&self, path: &Path) -> Result<(), Error> {
        make_folder_of(path)?;
        Ok(folder::write_atomically(path, self.render().as_bytes())?)
    }

    /// The page as HTML.
    #[must_use]
    pub fn render(&self) -> String {
        let mut body = String::new();
        for part in &self.parts {
            part.render(&mut body);
        }
        format!(
            "<!DOCTYPE html>\n<html lang=\"en\">\n<head>\n<meta charset=\"utf-8\">\n\
             <meta name=\"viewport\" content=\"width=device-width, initial-scale=1\">\n<title>{title}</title>\n<style>\n{css}</style>\n\
             </head>\n<body>\n<h1>{title}</h1>\n<p class=\"lead\">{lead}</p>\n{body}<p class=\"note\">Made by {software}.</p>\n\
             <script>\n{js}</script>\n</body>\n</html>\n",
            title = escape(&self.title),
            lead = escape(&self.lead),
            css = include_str!("page.css"),
            js = include_str!("page.js"),
            software = concat!("basin-volume ", env!("CARGO_PKG_VERSION")),
        )
    }
}

impl Part {
    fn render(&self, out: &mut String) {
        // Writing to a string cannot fail.
        let _ = self.try_render(out);
    }

    fn try_render(&self, out: &mut String) -> std::fmt::Result {
        match self {
            Self::Table { rows, .. } if rows.is_empty() => Ok(()),
            Self::Words { said, .. } if said.is_empty() => Ok(()),
            Self::Figures { figures, .. } if figures.is_empty() => Ok(()),
            Self::Settings { values, .. } if values.is_empty() => Ok(()),
            Self::Table { heading, columns, rows } => {
                let class = |column: &Column| if column.is_number { " class=\"number\"" } else { "" };
                writeln!(out, "<h2>{}</h2>\n<div class=\"scroll\"><table class=\"sortable\">\n<thead><tr>", escape(heading))?;
                for column in columns {
                    writeln!(out, "<th scope=\"col\"{}><button type=\"button\">{}</button></th>", class(column), escape(&column.name))?;
                }
                writeln!(out, "</tr></thead>\n<tbody>")?;
                for row in rows {
                    write!(out, "<tr>")?;
                    for (cell, column) in row.iter().zip(columns) {
                        write!(out, "<td{} data-value=\"{}\">{}</td>", class(column), escape(&cell.value), escape(&cell.text))?;
                    }
                    writeln!(out, "</tr>")?;
                }
                writeln!(out, "</tbody>\n</table></div>")
            }
            Self::Words { heading, said } => {
                writeln!(out, "<h2>{}</h2>\n<dl class=\"words\">", escape(heading))?;
                for (what, sentence) in said {
                    let what = if what.is_empty() { String::new() } else { format!("<dt>{}</dt>", escape(what)) };
                    writeln!(out, "{what}<dd>{}</dd>", escape(sentence))?;
                }
                writeln!(out, "</dl>")
            }
            Self::Figures { heading, figures } => {
                writeln!(out, "<h2>{}</h2>\n<div class=\"figures\">", escape(heading))?;
                for (caption, svg) in figures {
                    let caption = escape(caption);
                    writeln!(out, "<figure><div class=\"picture\">{svg}</div><figcaption>{caption}</figcaption></figure>")?;
                }
                writeln!(out, "</div>")
            }
            Self::Settings { heading, values } => {
                writeln!(out, "<details><summary>{}</summary>", escape(heading))?;
                writeln!(out, "<div class=\"scroll\"><table class=\"settings\"><tbody>")?;
                for (name, value) in values {
                    writeln!(out, "<tr><td>{}</td><td>{}</td></tr>", escape(name), escape(value))?;
                }
                writeln!(out, "</tbody></table></div></details>")
            }
        }
    }
}

/// The drawings of these names that are in a folder, as they stand in a page.
pub(crate) fn drawings(folder: &Path, names: &[(&str, &str)], prefix: &str) -> Vec<(String, String)> {
    let mut found = Vec::new();
    for (name, caption) in names {
        if let Ok(text) = fs::read_to_string(folder.join(format!("{name}.svg")))
            && let Some(start) = text.find("<svg")
        {
            found.push((format!("{prefix}{caption}"), text[start..].trim_end().to_owned()));
        }
    }
    found
}

/// Every number and word of a JSON value with its path; long lists are only counted.
pub(crate) fn flat(value: &Value) -> Vec<(String, String)> {
    fn collect(path: &str, value: &Value, out: &mut Vec<(String, String)>) {
        match value {
            Value::Object(map) => {
                for (key, value) in map {
                    collect(&if path.is_empty() { key.clone() } else { format!("{path}.{key}") }, value, out);
                }
            }
            Value::Null => {}
            Value::Array(list) if list.len() > LONGEST_LIST || list.iter().any(Value::is_object) => {
                out.push((path.to_owned(), format!("{} entries", list.len())));
            }
            Value::Array(list) => {
                let words: Vec<String> = list.iter().map(|value| value.as_str().map_or_else(|| value.to_string(), str::to_owned)).collect();
                out.push((path.to_owned(), words.join(", ")));
            }
            Value::String(text) => out.push((path.to_owned(), text.clone())),
            other => out.push((path.to_owned(), other.to_string())),
        }
    }
    let mut out = Vec::new();
    collect("", value, &mut out);
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_is_escaped_and_empty_parts_are_left_out() {
        let page = Page {
            title: "a <b> & \"c\"".to_owned(),
            lead: String::new(),
            parts: vec![
                Part::Table { heading: "Empty".to_owned(), columns: columns(&["x"]), rows: Vec::new() },
                Part::Table {
                    heading: "Full".to_owned(),
                    columns: columns(&["name", "nats#"]),
                    rows: vec![vec![Cell::text("<script>"), Cell::number(Some(-1.5), |x| format!("{x:.2}"))]],
                },
            ],
        };
        let html = page.render();
        assert!(html.contains("<title>a &lt;b&gt; &amp; &quot;c&quot;</title>") && !html.contains("Empty"));
        assert!(html.contains("<td data-value=\"&lt;script&gt;\">&lt;script&gt;</td><td class=\"number\" data-value=\"-1.5\">-1.50</td>"));
        // Nothing is fetched from anywhere.
        assert!(!html.contains("http") && !html.contains("src=") && !html.contains("<link"));
    }

    #[test]
    fn settings_are_flat_and_long_lists_are_counted() {
        let value = serde_json::json!({ "a": { "b": 1, "c": [1, "x"] }, "d": (0..100).collect::<Vec<_>>(), "e": null });
        let expected = [("a.b", "1"), ("a.c", "1, x"), ("d", "100 entries")].map(|(name, value)| (name.to_owned(), value.to_owned()));
        assert_eq!(flat(&value), expected);
    }
}
