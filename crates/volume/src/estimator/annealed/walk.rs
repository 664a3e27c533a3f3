//! From block to block: what chains do between two looks at the disk, whatever the order of their stays.

use std::borrow::Cow;
use std::collections::BTreeSet;

use super::chain::Chain;
use super::error::AnnealedError;
use super::estimator::AnnealedEstimator;
use super::keeper::Keeper;
use super::metric::Guide;
use super::record::{Block, Phase, UnfinishedBlock};
use super::rung::Rung;
use super::schedule::{Begin, Task};
use crate::objective::ObjectiveError;
use crate::run::record::Record;
use crate::spec::SetKind;

/// Which block comes next: a pure function of the blocks so far, so that a run resumes where it stopped and gives the same bits.
pub(in crate::estimator) trait Walk {
    /// The next block; none when everything is done.
    fn next(&self) -> Option<Task>;

    /// Takes the blocks of all chains for [`Walk::next`].
    fn complete(&mut self, blocks: &[&Block]);
}

/// Takes the blocks that a run left, in the order of their indices, as long as they are what the walk asks for and `fits` does not end it. A kill
/// between the records of a block's chains leaves some of them, which do not count.
pub(in crate::estimator) fn replay<W: Walk>(
    walk: &mut W,
    chains: u32,
    mut blocks: Vec<&Block>,
    mut fits: impl FnMut(&mut W, &Task, &[&Block]) -> bool,
) {
    blocks.sort_by_key(|block| block.index);
    for round in blocks.chunks(chains as usize) {
        let Some(task) = walk.next() else { break };
        let first = 1 + task.sequence * u64::from(chains);
        if round.len() < chains as usize || round.iter().zip(first..).any(|(block, index)| block.index != index) {
            break;
        }
        if !fits(walk, &task, round) {
            break;
        }
        walk.complete(round);
    }
}

impl AnnealedEstimator<'_> {
    /// Block by block, from wherever `records` and the kept states end. States are kept before the records that they belong to, and `observe` is
    /// called when both are.
    pub(in crate::estimator) fn walk<W: Walk, R: Record + From<Block>>(
        &self,
        walk: &mut W,
        records: &[R],
        keeper: &mut dyn Keeper<R>,
        observe: &mut dyn FnMut(&W),
    ) -> Result<(), AnnealedError> {
        let mut chains: Vec<Chain> = Vec::new();
        let mut guide = Guide::default();
        let pools = self.pools()?;
        let present: BTreeSet<u64> = records.iter().map(Record::index).collect();
        while let Some(task) = walk.next() {
            let mut done = vec![UnfinishedBlock::new(task.step); self.spec.chains as usize];
            if task.begin != Begin::Here || chains.is_empty() {
                let goes_on = chains.is_empty();
                // A run that goes on does so from the states of the block before.
                let states =
                    if task.begin == Begin::Here { self.kept(keeper, task.sequence.checked_sub(1))? } else { self.beginning(&task)? };
                guide = self.guide_of_stay(&task, &states, keeper)?;
                let unfinished = if goes_on { keeper.unfinished(task.sequence)? } else { None };
                let states = match unfinished {
                    Some(unfinished) => {
                        done = unfinished.done;
                        self.checked(unfinished.states)?
                    }
                    None => states,
                };
                chains = self.chains_at(states, &guide.points(task.failed), task.point.beta)?;
            } else if task.block == 0 {
                guide = self.guide(task.point, &slices(&self.states_of(&chains)?))?;
            }
            if let Err(error) = self.block(&task, &mut chains, &mut done, &guide, &pools) {
                if error.is_interrupt() && done.iter().any(|done| !done.observations.is_empty()) {
                    keeper.keep_unfinished(task.sequence, &done, &slices(&self.states_of(&chains)?))?;
                }
                return Err(error);
            }
            let mut blocks = self.records(&task, done);
            if let Some(metric) = guide.metric.as_ref().filter(|_| task.block == 0) {
                blocks.iter_mut().for_each(|block| block.gradients += metric.gradients());
            }
            keeper.keep_states(task.sequence, &slices(&self.states_of(&chains)?), task.phase == Phase::Settle, task.before())?;
            // A kill between the records of a block's chains leaves some of them, which come out again as they are.
            let missing = blocks.iter().filter(|block| !present.contains(&block.index));
            let kept: Vec<R> = missing.cloned().map(R::from).collect();
            keeper.keep_records(&kept)?;
            walk.complete(&blocks.iter().collect::<Vec<_>>());
            observe(walk);
        }
        Ok(())
    }

    /// What guides a stay that begins with this block in these states, or began before it.
    fn guide_of_stay<R>(&self, task: &Task, states: &[Vec<f32>], keeper: &mut dyn Keeper<R>) -> Result<Guide, AnnealedError> {
        let before;
        let origin = if task.block == 0 {
            states
        } else if self.coordinates.is_none() && self.maps().is_none() && self.measured.set == SetKind::Basin {
            return Ok(Guide::default());
        } else {
            before = if task.origin == Begin::Here { self.kept(keeper, task.before())? } else { self.beginning(task)? };
            before.as_slice()
        };
        Ok(self.guide(task.point, &origin.iter().map(Vec::as_slice).collect::<Vec<_>>())?)
    }

    /// What guides chains that begin a stay at a point in these states.
    fn guide(&self, point: Rung, states: &[&[f32]]) -> Result<Guide, ObjectiveError> {
        Ok(Guide { metric: self.metric(point, states)?, nearness: self.measured.nearness(states)? })
    }

    /// The states after a block.
    fn kept<R>(&self, keeper: &mut dyn Keeper<R>, sequence: Option<u64>) -> Result<Vec<Vec<f32>>, AnnealedError> {
        let kept = match sequence {
            Some(sequence) => keeper.states(sequence)?,
            None => None,
        };
        self.checked(kept.unwrap_or_default())
    }

    /// States that were kept, one for every chain.
    fn checked(&self, states: Vec<Vec<f32>>) -> Result<Vec<Vec<f32>>, AnnealedError> {
        if states.len() != self.spec.chains as usize {
            return Err(AnnealedError::Keep("the states of the chains are missing: begin again in a new folder".into()));
        }
        match states.iter().find(|state| state.len() != self.measured.center.values.len()) {
            Some(state) => Err(AnnealedError::State { found: state.len(), expected: self.measured.center.values.len() }),
            None => Ok(states),
        }
    }

    fn chains_at(&self, states: Vec<Vec<f32>>, points: &[u32], beta: f64) -> Result<Vec<Chain>, AnnealedError> {
        Ok(self.each(states, |state| Chain::at(state, &self.measured, points, beta))?)
    }

    fn states_of<'c>(&self, chains: &'c [Chain]) -> Result<Vec<Cow<'c, [f32]>>, ObjectiveError> {
        chains.iter().map(|chain| self.state_of(chain)).collect()
    }
}

fn slices<'s>(states: &'s [Cow<'_, [f32]>]) -> Vec<&'s [f32]> {
    states.iter().map(|state| &**state).collect()
}
