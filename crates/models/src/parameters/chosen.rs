//! Which coordinates of a layout are meant: of some tensors all, of others some rows and columns.

use std::collections::BTreeMap;
use std::ops::Range;

use super::ParameterLayout;
use super::cells::{Cells, Intervals, sides};

/// A set of coordinates of a layout. Tensors go by their numbers in it.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Chosen {
    tensors: BTreeMap<usize, Cells>,
}

impl Chosen {
    /// All coordinates of the tensors for which `is_meant` says so, by their names.
    #[must_use]
    pub fn of_names(layout: &ParameterLayout, is_meant: impl Fn(&str) -> bool) -> Self {
        let all = layout.parameters().iter().enumerate().filter(|(_, parameter)| is_meant(&parameter.name));
        Self { tensors: all.map(|(number, parameter)| (number, Cells::all(parameter))).collect() }
    }

    /// The coordinates of a range of the flat vector: of whole rows of tensors.
    ///
    /// # Panics
    /// If the range begins or ends inside a row.
    pub(crate) fn of_range(layout: &ParameterLayout, range: &Range<usize>) -> Self {
        let mut chosen = Self::default();
        let parameters = layout.parameters();
        let mut number = parameters.partition_point(|parameter| parameter.range().end <= range.start);
        let mut start = range.start;
        while start < range.end {
            let parameter = &parameters[number];
            let end = range.end.min(parameter.range().end);
            let width = sides(parameter).1;
            let (first, last) = (start - parameter.offset, end - parameter.offset);
            assert!(first % width == 0 && last % width == 0, "whole rows of {}", parameter.name);
            chosen.add(number, Cells::block(&(first / width..last / width).into(), &(0..width).into()));
            (start, number) = (end, number + 1);
        }
        chosen
    }

    /// Some rows and columns of the tensor that begins at `offset`.
    ///
    /// # Panics
    /// If none begins there.
    pub(crate) fn of_block(layout: &ParameterLayout, offset: usize, rows: &Intervals, columns: &Intervals) -> Self {
        let found = layout.parameters().binary_search_by_key(&offset, |parameter| parameter.offset);
        let Ok(number) = found else { panic!("no tensor begins at {offset}") };
        let mut chosen = Self::default();
        chosen.add(number, Cells::block(rows, columns));
        chosen
    }

    /// Adds coordinates of one tensor.
    pub(crate) fn add(&mut self, tensor: usize, cells: Cells) {
        if cells.count() == 0 {
            return;
        }
        match self.tensors.get_mut(&tensor) {
            Some(own) => *own = own.union(&cells),
            None => _ = self.tensors.insert(tensor, cells),
        }
    }

    /// Adds the coordinates of another set.
    pub fn extend(&mut self, other: &Self) {
        other.tensors.iter().for_each(|(&tensor, cells)| self.add(tensor, cells.clone()));
    }

    /// The coordinates that are in both sets.
    #[must_use]
    pub fn intersection(&self, other: &Self) -> Self {
        let both = self.tensors.iter().filter_map(|(tensor, cells)| {
            let common = cells.intersection(other.tensors.get(tensor)?);
            (common.count() > 0).then_some((*tensor, common))
        });
        Self { tensors: both.collect() }
    }

    /// How many coordinates there are.
    #[must_use]
    pub fn count(&self) -> usize {
        self.tensors.values().map(Cells::count).sum()
    }

    /// The tensors by number, in order, with what is chosen of each.
    pub(crate) fn tensors(&self) -> impl Iterator<Item = (usize, &Cells)> {
        self.tensors.iter().map(|(tensor, cells)| (*tensor, cells))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges_names_and_blocks_make_the_same_sets() {
        let layout = ParameterLayout::new([("a", vec![2, 3]), ("b", vec![2]), ("c", vec![4, 2])].map(|(n, s)| (n.to_owned(), s)));
        let mut both = Chosen::of_names(&layout, |name| name == "a");
        both.extend(&Chosen::of_range(&layout, &(6..8)));
        assert_eq!(both, Chosen::of_range(&layout, &(0..8)));
        assert_eq!(both, Chosen::of_names(&layout, |name| name != "c"));
        let rows = Chosen::of_block(&layout, 8, &(1..3).into(), &(0..2).into());
        assert_eq!(rows, Chosen::of_range(&layout, &(10..14)));
        assert_eq!(
            (rows.count(), both.intersection(&rows).count(), rows.intersection(&Chosen::of_range(&layout, &(6..12))).count()),
            (4, 0, 2)
        );
    }
}
