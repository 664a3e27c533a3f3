//! All chains' trajectories of one block.

use std::sync::{Mutex, PoisonError};

use rayon::{ThreadPool, ThreadPoolBuilder};

use super::chain::{Chain, Impulse, Motion};
use super::error::AnnealedError;
use super::estimator::{ALL_CHAINS, AnnealedEstimator};
use super::measured_cost::Work;
use super::metric::{Frame, Guide};
use super::record::{Block, UnfinishedBlock};
use super::schedule::Task;
use crate::objective::ObjectiveError;
use crate::statistics::mean;

impl AnnealedEstimator<'_> {
    /// Moves every chain to the end of its block, from wherever it is in it. An error leaves the states and what is done as they were after the last
    /// trajectory of each chain.
    pub(super) fn block(
        &self,
        task: &Task,
        chains: &mut [Chain],
        done: &mut [UnfinishedBlock],
        guide: &Guide,
        pools: &[ThreadPool],
    ) -> Result<(), AnnealedError> {
        let points = guide.points(task.failed);
        let frame = Frame::new(&self.measured, task.point, guide.metric.as_ref(), &points);
        let work = |number: usize, chain: &mut Chain, done: &mut UnfinishedBlock| -> Result<(), ObjectiveError> {
            let mut rng = self.steps(task.sequence, number as u32);
            // All chains have trajectories of the same lengths: those that run side by side end at the same time.
            let mut lengths = self.steps(task.sequence, ALL_CHAINS);
            for trajectory in 0..self.spec.block {
                let angle = self.spec.angle * (0.5 + lengths.uniform());
                let momentum = self.momentum((task.sequence << 20) | ((number as u64) << 8) | u64::from(trajectory));
                let impulse = Impulse { momentum, uniform: rng.uniform() };
                if done.observations.len() > trajectory as usize {
                    continue;
                }
                let motion = Motion::of(angle, done.step, self.spec.integrator);
                let mut work = Work::default();
                let outcome = chain.trajectory(&self.measured, task.point, &frame, motion, impulse, &mut work)?;
                let observed = chain.observe(&self.measured, task.point, &mut work).inspect_err(|_| chain.undo(&outcome))?;
                done.acceptance.push(outcome.acceptance);
                done.diverged += u32::from(outcome.diverged);
                if outcome.not_finite {
                    done.not_finite += 1;
                    done.step *= 0.5;
                }
                done.gradients += work.gradients;
                done.evaluations += work.evaluations;
                done.observations.push(observed);
            }
            Ok(())
        };
        let mut all = chains.iter_mut().zip(done).enumerate();
        let [pool] = pools else {
            let queue = Mutex::new(all);
            let failures: Mutex<Vec<ObjectiveError>> = Mutex::default();
            std::thread::scope(|scope| {
                for pool in pools {
                    let (queue, failures, work) = (&queue, &failures, &work);
                    scope.spawn(move || {
                        loop {
                            let next = queue.lock().unwrap_or_else(PoisonError::into_inner).next();
                            let Some((number, (chain, done))) = next else { break };
                            if let Err(error) = pool.install(|| work(number, chain, done)) {
                                failures.lock().unwrap_or_else(PoisonError::into_inner).push(error);
                            }
                        }
                    });
                }
            });
            // A failure is to be told before an interrupt.
            let mut failures = failures.into_inner().unwrap_or_else(PoisonError::into_inner);
            failures.sort_by_key(ObjectiveError::is_interrupt);
            return failures.into_iter().next().map_or(Ok(()), |error| Err(error.into()));
        };
        Ok(pool.install(|| all.try_for_each(|(number, (chain, done))| work(number, chain, done)))?)
    }

    /// The records of a block that is done.
    pub(super) fn records(&self, task: &Task, done: Vec<UnfinishedBlock>) -> Vec<Block> {
        let record = |(number, done): (usize, UnfinishedBlock)| Block {
            index: 1 + task.sequence * u64::from(self.spec.chains) + number as u64,
            sweep: task.sweep,
            phase: task.phase,
            rung: task.rung as u32,
            block: task.block,
            chain: number as u32,
            beta: task.point.beta,
            localization: task.point.localization,
            step: task.step,
            acceptance: mean(&done.acceptance),
            diverged: done.diverged,
            not_finite: done.not_finite,
            gradients: done.gradients,
            evaluations: done.evaluations,
            observations: done.observations,
        };
        done.into_iter().enumerate().map(record).collect()
    }

    /// Threads of the current pool, shared out among as many chains as can run side by side: threads of one pool that work on several
    /// chains would steal each other's small pieces of work all the time.
    pub(super) fn pools(&self) -> Result<Vec<ThreadPool>, AnnealedError> {
        let threads = rayon::current_num_threads();
        let workers = threads.min(self.spec.chains as usize);
        (0..workers)
            .map(|worker| ThreadPoolBuilder::new().num_threads(threads / workers + usize::from(worker < threads % workers)).build())
            .collect::<Result<_, _>>()
            .map_err(|error| AnnealedError::Keep(format!("cannot start the worker threads: {error}").into()))
    }
}
