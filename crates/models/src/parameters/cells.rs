//! Sets of elements of one tensor, which is seen as a matrix: its first axis counts rows, all others together columns.

use std::fmt;
use std::ops::Range;

use super::Parameter;

/// Numbers of rows or of columns: disjoint ranges in order, none empty, none beside another.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(crate) struct Intervals(Vec<Range<usize>>);

impl From<Range<usize>> for Intervals {
    fn from(range: Range<usize>) -> Self {
        Self::new([range])
    }
}

impl Intervals {
    /// All numbers of some ranges, which may overlap.
    pub(crate) fn new(ranges: impl IntoIterator<Item = Range<usize>>) -> Self {
        let mut sorted: Vec<Range<usize>> = ranges.into_iter().filter(|range| range.start < range.end).collect();
        sorted.sort_by_key(|range| range.start);
        let mut all: Vec<Range<usize>> = Vec::with_capacity(sorted.len());
        for range in sorted {
            match all.last_mut() {
                Some(last) if range.start <= last.end => last.end = last.end.max(range.end),
                _ => all.push(range),
            }
        }
        Self(all)
    }

    /// The ranges, in order.
    pub(crate) fn ranges(&self) -> &[Range<usize>] {
        &self.0
    }

    /// How many numbers there are.
    pub(crate) fn count(&self) -> usize {
        self.0.iter().map(Range::len).sum()
    }

    /// Every number, in order.
    pub(crate) fn numbers(&self) -> impl Iterator<Item = usize> {
        self.0.iter().flat_map(Range::clone)
    }

    fn union(&self, other: &Self) -> Self {
        Self::new(self.0.iter().chain(&other.0).cloned())
    }

    fn intersection(&self, other: &Self) -> Self {
        let pairs = self.0.iter().flat_map(|one| other.0.iter().map(move |two| one.start.max(two.start)..one.end.min(two.end)));
        Self::new(pairs)
    }
}

/// As in a subscript of Python, ranges joined by `+`.
impl fmt::Display for Intervals {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (number, range) in self.0.iter().enumerate() {
            write!(f, "{}{}:{}", if number > 0 { "+" } else { "" }, range.start, range.end)?;
        }
        Ok(())
    }
}

/// Some rows and of each of them the same columns.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Block {
    pub(crate) rows: Intervals,
    pub(crate) columns: Intervals,
}

/// Consecutive rows with the same columns.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Band {
    rows: Range<usize>,
    columns: Intervals,
}

/// A set of elements of a matrix: bands from the first row to the last. Equal sets have equal bands.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(crate) struct Cells {
    bands: Vec<Band>,
}

/// Rows and columns of a tensor seen as a matrix.
pub(crate) fn sides(parameter: &Parameter) -> (usize, usize) {
    let rows = parameter.shape.first().copied().unwrap_or(1);
    (rows, parameter.shape.iter().skip(1).product())
}

impl Cells {
    /// All elements of a tensor.
    pub(crate) fn all(parameter: &Parameter) -> Self {
        let (rows, columns) = sides(parameter);
        Self::block(&(0..rows).into(), &(0..columns).into())
    }

    /// These columns of these rows.
    pub(crate) fn block(rows: &Intervals, columns: &Intervals) -> Self {
        let band = |rows: &Range<usize>| Band { rows: rows.clone(), columns: columns.clone() };
        Self { bands: if columns.0.is_empty() { Vec::new() } else { rows.0.iter().map(band).collect() } }
    }

    /// How many elements there are.
    pub(crate) fn count(&self) -> usize {
        self.bands.iter().map(|band| band.rows.len() * band.columns.count()).sum()
    }

    fn at(&self, row: usize) -> Option<&Intervals> {
        let band = self.bands.get(self.bands.partition_point(|band| band.rows.end <= row))?;
        band.rows.contains(&row).then_some(&band.columns)
    }

    /// The set with `combine` of both sets' columns in every row.
    fn combined(&self, other: &Self, combine: impl Fn(&Intervals, &Intervals) -> Intervals) -> Self {
        let mut edges: Vec<usize> = self.bands.iter().chain(&other.bands).flat_map(|band| [band.rows.start, band.rows.end]).collect();
        edges.sort_unstable();
        edges.dedup();
        let (nothing, mut bands) = (Intervals::default(), Vec::<Band>::new());
        for rows in edges.windows(2).map(|pair| pair[0]..pair[1]) {
            let columns = combine(self.at(rows.start).unwrap_or(&nothing), other.at(rows.start).unwrap_or(&nothing));
            if columns.0.is_empty() {
                continue;
            }
            match bands.last_mut() {
                Some(last) if last.rows.end == rows.start && last.columns == columns => last.rows.end = rows.end,
                _ => bands.push(Band { rows, columns }),
            }
        }
        Self { bands }
    }

    /// The elements of either.
    pub(crate) fn union(&self, other: &Self) -> Self {
        self.combined(other, Intervals::union)
    }

    /// The elements of both.
    pub(crate) fn intersection(&self, other: &Self) -> Self {
        self.combined(other, Intervals::intersection)
    }

    /// The set as matrices cut from the tensor, as few as their order allows: all elements of one stand before those of the next.
    pub(crate) fn blocks(&self) -> Vec<Block> {
        let Some(first) = self.bands.first() else { return Vec::new() };
        if self.bands.iter().all(|band| band.columns == first.columns) {
            let rows = Intervals::new(self.bands.iter().map(|band| band.rows.clone()));
            return vec![Block { rows, columns: first.columns.clone() }];
        }
        self.bands.iter().map(|band| Block { rows: band.rows.clone().into(), columns: band.columns.clone() }).collect()
    }
}

impl Block {
    /// The elements' places in the tensor, as ranges in order.
    pub(crate) fn places(&self, parameter: &Parameter) -> Vec<Range<usize>> {
        let width = sides(parameter).1;
        if self.columns.count() == width {
            return self.rows.0.iter().map(|rows| rows.start * width..rows.end * width).collect();
        }
        let of_row = |row: usize| self.columns.0.iter().map(move |columns| row * width + columns.start..row * width + columns.end);
        self.rows.numbers().flat_map(of_row).collect()
    }

    /// Name and shape of the block as a tensor of its own: those of the tensor if it is all of it.
    pub(crate) fn described(&self, parameter: &Parameter) -> (String, Vec<usize>) {
        let (rows, columns) = sides(parameter);
        let (has_rows, has_columns) = (self.rows.count() == rows, self.columns.count() == columns);
        if has_rows && has_columns {
            return (parameter.name.clone(), parameter.shape.clone());
        }
        let text = |is_all: bool, intervals: &Intervals| if is_all { ":".to_owned() } else { intervals.to_string() };
        let (row_text, column_text) = (text(has_rows, &self.rows), text(has_columns, &self.columns));
        if parameter.shape.len() < 2 {
            return (format!("{}[{row_text}]", parameter.name), vec![self.rows.count()]);
        }
        let rest = if has_columns { parameter.shape[1..].to_vec() } else { vec![self.columns.count()] };
        let shape = std::iter::once(self.rows.count()).chain(rest).collect();
        (format!("{}[{row_text}, {column_text}]", parameter.name), shape)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn block(rows: Range<usize>, columns: Range<usize>) -> Cells {
        Cells::block(&rows.into(), &columns.into())
    }

    fn matrix(rows: usize, columns: usize) -> Parameter {
        Parameter { name: "w".to_owned(), shape: vec![rows, columns], offset: 0 }
    }

    #[test]
    fn sets_are_those_of_a_mask() {
        // Every pair of rectangles in a small matrix, against sets of places.
        let parameter = matrix(4, 3);
        let places = |cells: &Cells| -> Vec<usize> { cells.blocks().iter().flat_map(|block| block.places(&parameter)).flatten().collect() };
        let mut all = Vec::new();
        for (r, c) in (0..4).flat_map(|r| (0..3).map(move |c| (r, c))) {
            all.extend((r..=4).flat_map(|end| (c..=3).map(move |side| block(r..end, c..side))));
        }
        for (one, two) in all.iter().flat_map(|one| all.iter().map(move |two| (one, two))) {
            let (first, second) = (places(one), places(two));
            let both: Vec<usize> = (0..12).filter(|place| first.contains(place) && second.contains(place)).collect();
            let either: Vec<usize> = (0..12).filter(|place| first.contains(place) || second.contains(place)).collect();
            assert_eq!(places(&one.intersection(two)), both, "{one:?} {two:?}");
            assert_eq!(places(&one.union(two)), either, "{one:?} {two:?}");
            assert_eq!(one.union(two).count(), either.len());
            assert_eq!(one.union(two), two.union(one));
        }
    }

    #[test]
    fn blocks_have_names_and_shapes_of_their_own() {
        let parameter = matrix(8, 6);
        let heads = block(0..2, 0..6).union(&block(4..6, 0..6));
        assert_eq!(heads.blocks().len(), 1);
        assert_eq!(heads.blocks()[0].described(&parameter), ("w[0:2+4:6, :]".to_owned(), vec![4, 6]));
        assert_eq!(heads.blocks()[0].places(&parameter), [0..12, 24..36]);
        let cross = block(0..2, 0..6).union(&block(0..8, 1..3));
        let described: Vec<_> = cross.blocks().iter().map(|block| block.described(&parameter)).collect();
        assert_eq!(described, [("w[0:2, :]".to_owned(), vec![2, 6]), ("w[2:8, 1:3]".to_owned(), vec![6, 2])]);
        assert_eq!(Cells::all(&parameter).blocks()[0].described(&parameter), ("w".to_owned(), vec![8, 6]));
        let bias = Parameter { name: "b".to_owned(), shape: vec![8], offset: 0 };
        assert_eq!(block(2..4, 0..1).blocks()[0].described(&bias), ("b[2:4]".to_owned(), vec![2]));
        let kernel = Parameter { name: "k".to_owned(), shape: vec![4, 2, 3, 3], offset: 0 };
        assert_eq!(block(1..2, 0..18).blocks()[0].described(&kernel), ("k[1:2, :]".to_owned(), vec![1, 2, 3, 3]));
        let number = Parameter { name: "s".to_owned(), shape: vec![], offset: 0 };
        assert_eq!((Cells::all(&number).count(), Cells::all(&number).blocks()[0].described(&number)), (1, ("s".to_owned(), vec![])));
    }
}
