//! Flat groups: the master weights of many parameters one after the other, and their moments in the same order. Which parameter stands
//! where is found by comparing the master weights with the center.

use std::ops::Range;
use std::path::Path;

use half::{bf16, f16};

use super::{BLOCK, Center, Filling, Moment, Moments, OptimizerError};
use crate::parameters::ParameterLayout;
use crate::weights::stored::StoredTensor;

/// A vector in pieces: the partitions of all ranks.
pub(super) struct Flat {
    pieces: Vec<StoredTensor>,
    /// Where each piece starts, and the length of all.
    starts: Vec<usize>,
}

impl Flat {
    pub(super) fn new(pieces: Vec<StoredTensor>) -> Self {
        let mut starts = vec![0];
        for piece in &pieces {
            starts.push(starts[starts.len() - 1] + piece.len());
        }
        Self { pieces, starts }
    }

    pub(super) fn len(&self) -> usize {
        self.starts[self.pieces.len()]
    }

    fn read(&self, range: Range<usize>, out: &mut [f32]) {
        let mut position = range.start;
        let mut index = self.starts.partition_point(|&start| start <= position).saturating_sub(1);
        while position < range.end {
            let (start, end) = (self.starts[index], self.starts[index + 1]);
            let stop = end.min(range.end);
            if stop > position {
                self.pieces[index].read(position - start..stop - start, &mut out[position - range.start..stop - range.start]);
                position = stop;
            }
            index += 1;
        }
    }
}

/// One group of parameters.
pub(super) struct Group {
    pub(super) master: Flat,
    pub(super) first: Flat,
    pub(super) second: Flat,
}

impl Group {
    fn moment(&self, moment: Moment) -> &Flat {
        match moment {
            Moment::First => &self.first,
            Moment::Second => &self.second,
        }
    }
}

/// Leading values compared before a whole parameter is.
const HEAD: usize = 16;

/// Whether a weight of the center is a master weight, or what is left of it in half precision.
fn same(center: f32, master: f32) -> bool {
    center == master || center == f16::from_f32(master).to_f32() || center == bf16::from_f32(master).to_f32()
}

/// The moments of all parameters.
///
/// Every group is walked from its start: the parameter whose weights stand there is the next one. What remains at the end must be zeros.
pub(super) fn read(path: &Path, groups: &[Group], layout: &ParameterLayout, center: Center, step: u64) -> Result<Moments, OptimizerError> {
    let parameters = layout.parameters();
    let heads: Vec<Vec<f32>> = parameters
        .iter()
        .map(|parameter| {
            let mut head = vec![0.0; parameter.len().min(HEAD)];
            center(parameter.offset..parameter.offset + head.len(), &mut head);
            head
        })
        .collect();
    // Group and start of every parameter; parameters without elements stand anywhere.
    let mut places: Vec<Option<(usize, usize)>> = parameters.iter().map(|parameter| parameter.is_empty().then_some((0, 0))).collect();
    let mut twins: Vec<(usize, usize)> = Vec::new();
    for (number, group) in groups.iter().enumerate() {
        let length = group.master.len();
        let mut position = 0;
        let mut before: Option<usize> = None;
        while position < length {
            let mut master = vec![0.0; HEAD.min(length - position)];
            group.master.read(position..position + master.len(), &mut master);
            let begins = |index: usize| {
                let head = &heads[index];
                parameters[index].len() <= length - position && head.iter().zip(&master).all(|(&center, &master)| same(center, master))
            };
            let candidates = (0..parameters.len()).filter(|&index| places[index].is_none() && begins(index));
            let found: Vec<usize> = candidates.filter(|&index| is_at(layout, index, center, &group.master, position)).collect();
            let Some(&index) = found.first() else {
                if is_zero(&group.master, position) {
                    break;
                }
                let after = before.map_or_else(|| "at its start".to_owned(), |index| format!("after `{}`", parameters[index].name));
                let problem = format!(
                    "what stands in its flat group {number} {after} is no parameter of the network (compared by value): the weights of the \
                     same step are needed"
                );
                return Err(OptimizerError::Mismatch { path: path.to_owned(), problem });
            };
            for &other in &found[1..] {
                if parameters[other].len() != parameters[index].len() {
                    return Err(ambiguous(path, layout, index, other));
                }
                twins.push((index, other));
            }
            places[index] = Some((number, position));
            position += parameters[index].len();
            before = Some(index);
        }
    }
    let missing: Vec<String> =
        parameters.iter().zip(&places).filter(|(_, place)| place.is_none()).map(|(parameter, _)| parameter.name.clone()).collect();
    if !missing.is_empty() {
        return Err(OptimizerError::Missing { path: path.to_owned(), parameters: missing });
    }
    let mut filling = Filling::new(layout);
    for (parameter, place) in parameters.iter().zip(&places) {
        let Some((group, start)) = *place else { continue };
        filling.parameter(path, parameter, |moment, range, out| {
            groups[group].moment(moment).read(start + range.start..start + range.end, out);
        })?;
    }
    // Parameters with the same weights can be exchanged: that does not matter when their moments are the same too.
    for (one, other) in twins {
        let (a, b) = (parameters[one].range(), parameters[other].range());
        if filling.first[a.clone()] != filling.first[b.clone()] || filling.second[a] != filling.second[b] {
            return Err(ambiguous(path, layout, one, other));
        }
    }
    Ok(filling.finish(step))
}

fn ambiguous(path: &Path, layout: &ParameterLayout, one: usize, other: usize) -> OptimizerError {
    let (one, other) = (&layout.parameters()[one].name, &layout.parameters()[other].name);
    let problem = format!("`{one}` and `{other}` begin with the same weights, and its flat groups are told apart by those");
    OptimizerError::Ambiguous { path: path.to_owned(), problem }
}

/// Whether all weights of a parameter stand at a place of a flat vector.
fn is_at(layout: &ParameterLayout, index: usize, center: Center, master: &Flat, position: usize) -> bool {
    let place = layout.parameters()[index].range();
    let (mut theirs, mut own) = (vec![0.0; BLOCK.min(place.len())], vec![0.0; BLOCK.min(place.len())]);
    place.clone().step_by(BLOCK).all(|start| {
        let count = BLOCK.min(place.end - start);
        let at = position + (start - place.start);
        center(start..start + count, &mut own[..count]);
        master.read(at..at + count, &mut theirs[..count]);
        own[..count].iter().zip(&theirs[..count]).all(|(&center, &master)| same(center, master))
    })
}

/// Whether nothing but the zeros of a padding follows.
fn is_zero(master: &Flat, position: usize) -> bool {
    let mut block = vec![0.0; BLOCK];
    (position..master.len()).step_by(BLOCK).all(|start| {
        let count = BLOCK.min(master.len() - start);
        master.read(start..start + count, &mut block[..count]);
        block[..count].iter().all(|&value| value == 0.0)
    })
}
