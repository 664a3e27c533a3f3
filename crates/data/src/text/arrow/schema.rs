//! Where the column of the text stands among the buffers of a batch.

use super::flat::{DAMAGED, Table};

/// Numbers of the types in Arrow's metadata, as far as their layout differs.
mod kind {
    pub(super) const NULL: u8 = 1;
    pub(super) const BINARY: u8 = 4;
    pub(super) const UTF8: u8 = 5;
    pub(super) const LIST: u8 = 12;
    pub(super) const STRUCTURE: u8 = 13;
    pub(super) const UNION: u8 = 14;
    pub(super) const FIXED_LIST: u8 = 16;
    pub(super) const MAP: u8 = 17;
    pub(super) const LARGE_BINARY: u8 = 19;
    pub(super) const LARGE_UTF8: u8 = 20;
    pub(super) const LARGE_LIST: u8 = 21;
    pub(super) const RUNS: u8 = 22;
    pub(super) const BINARY_VIEW: u8 = 23;
    pub(super) const UTF8_VIEW: u8 = 24;
    pub(super) const LIST_VIEW: u8 = 25;
    pub(super) const LARGE_LIST_VIEW: u8 = 26;
    pub(super) const LAST: u8 = LARGE_LIST_VIEW;
}

/// The column of the text.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Column {
    /// Buffers before its own, without those whose number every batch says for itself.
    pub(super) buffers_before: usize,
    /// Columns of views before it, each of which has a number of further buffers in every batch.
    pub(super) views_before: usize,
    /// How its texts are laid out.
    pub(super) layout: Layout,
}

/// How the texts of a column are found.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) enum Layout {
    /// One after the other, their ends in four bytes each.
    #[default]
    Offsets,
    /// The same with eight bytes.
    WideOffsets,
    /// By views: short texts in themselves, long ones in one of several buffers.
    Views,
}

/// Why the column is not to be had.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum SchemaFault {
    /// There is none of this name; these there are.
    Absent(Vec<String>),
    /// It holds something else.
    NotText(String),
    /// The metadata is damaged or of an unknown kind.
    Damaged(&'static str),
}

impl From<&'static str> for SchemaFault {
    fn from(problem: &'static str) -> Self {
        Self::Damaged(problem)
    }
}

/// Fields that are visited at most, those inside others included: offsets that lead to the same place again and again would never end.
const MOST_FIELDS: usize = 1 << 16;

/// Fields inside one another at most.
const DEEPEST: usize = 64;

impl Column {
    /// Finds the column `key` in a table of the kind `Schema`.
    pub(super) fn find(schema: Table<'_>, key: &str) -> Result<Self, SchemaFault> {
        if schema.short(0)? != 0 {
            return Err(SchemaFault::Damaged("its numbers are big-endian"));
        }
        let (mut before, mut names, mut visited) = (Self::default(), Vec::new(), 0);
        for field in schema.tables(1)? {
            let field = field?;
            let name = field.text(0)?;
            if name == key {
                before.layout = layout(field)?;
                return Ok(before);
            }
            names.push(name.to_owned());
            before.pass(field, 0, &mut visited)?;
        }
        Err(SchemaFault::Absent(names))
    }

    /// Counts the buffers of a field that stands before the column.
    fn pass(&mut self, field: Table<'_>, depth: usize, visited: &mut usize) -> Result<(), &'static str> {
        *visited += 1;
        if *visited > MOST_FIELDS || depth > DEEPEST {
            return Err("it has too many fields");
        }
        // A dictionary's column holds numbers; what they stand for is in batches of its own.
        let (kind, is_dictionary) = (field.byte(2)?, field.table(4)?.is_some());
        if is_dictionary {
            self.buffers_before += 2;
            return Ok(());
        }
        self.buffers_before += match kind {
            kind::NULL | kind::RUNS => 0,
            kind::STRUCTURE | kind::FIXED_LIST => 1,
            kind::UNION => 1 + usize::from(field.table(3)?.ok_or(DAMAGED)?.short(0)? == 1),
            kind::BINARY | kind::UTF8 | kind::LARGE_BINARY | kind::LARGE_UTF8 | kind::LIST_VIEW | kind::LARGE_LIST_VIEW => 3,
            kind::BINARY_VIEW | kind::UTF8_VIEW => {
                self.views_before += 1;
                2
            }
            1..=kind::LAST => 2,
            _ => return Err("it has a column of an unknown type"),
        };
        for child in field.tables(5)? {
            self.pass(child?, depth + 1, visited)?;
        }
        Ok(())
    }
}

/// The layout of a column, if it is one of texts.
fn layout(field: Table<'_>) -> Result<Layout, SchemaFault> {
    let found = match field.byte(2)? {
        kind::UTF8 | kind::LARGE_UTF8 | kind::UTF8_VIEW if field.table(4)?.is_some() => {
            "a column of words by their numbers in a dictionary"
        }
        kind::UTF8 => return Ok(Layout::Offsets),
        kind::LARGE_UTF8 => return Ok(Layout::WideOffsets),
        kind::UTF8_VIEW => return Ok(Layout::Views),
        kind::BINARY | kind::LARGE_BINARY | kind::BINARY_VIEW | 15 => "a column of bytes",
        kind::LIST | kind::LARGE_LIST | kind::FIXED_LIST | kind::LIST_VIEW | kind::LARGE_LIST_VIEW => "a column of lists",
        kind::STRUCTURE | kind::MAP | kind::UNION => "a column of structures",
        2 | 3 | 7 => "a column of numbers",
        6 => "a column of truth values",
        8..=11 | 18 => "a column of dates or times",
        kind::NULL => "a column of nulls",
        kind::RUNS => "a column of repeated values",
        _ => "a column of an unknown type",
    };
    Err(SchemaFault::NotText(found.to_owned()))
}
