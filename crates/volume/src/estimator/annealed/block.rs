//! All chains' trajectories of one block.

use std::sync::{Mutex, PoisonError};

use rayon::{ThreadPool, ThreadPoolBuilder};

use super::chain::Chain;
use super::error::AnnealedError;
use super::estimator::AnnealedEstimator;
use super::metric::{Frame, Metric};
use super::random::{CHAIN_DRAWS, COMMON, uniform, uniforms};
use super::record::Block;
use super::schedule::Task;
use super::target::Work;
use crate::objective::ObjectiveError;
use crate::statistics::mean;

impl AnnealedEstimator<'_> {
    /// All chains' trajectories of one block.
    pub(super) fn block(
        &self,
        task: &Task,
        chains: &mut [Chain],
        metric: Option<&Metric>,
        pools: &[ThreadPool],
    ) -> Result<Vec<Block>, AnnealedError> {
        let count = self.spec.chains as usize;
        let frame = Frame::new(task.point, self.sigma, metric);
        let work = |number: usize, chain: &mut Chain| -> Result<Block, ObjectiveError> {
            let mut rng = uniforms(self.question.seed(), task.sequence, number);
            // All chains have trajectories of the same lengths: those that run side by side end at the same time.
            let mut lengths = uniforms(self.question.seed(), task.sequence, COMMON);
            let mut step = task.step;
            let (mut acceptance, mut diverged, mut not_finite) = (Vec::new(), 0, 0);
            let (mut work, mut observations) = (Work::default(), Vec::new());
            for trajectory in 0..self.spec.block {
                let angle = self.spec.angle * (0.5 + uniform(&mut lengths));
                let leapfrogs = ((angle / step).ceil() as usize).max(1);
                let momentum = self.normal(CHAIN_DRAWS + ((task.sequence << 20) | ((number as u64) << 8) | u64::from(trajectory)));
                let outcome =
                    chain.trajectory(&self.target, task.point, &frame, (step, leapfrogs), (momentum, uniform(&mut rng)), &mut work)?;
                acceptance.push(outcome.acceptance);
                diverged += u32::from(outcome.diverged);
                if outcome.not_finite {
                    not_finite += 1;
                    step *= 0.5;
                }
                observations.push(chain.observe(&self.target, task.point, &mut work)?);
            }
            Ok(Block {
                index: 1 + task.sequence * count as u64 + number as u64,
                sweep: task.sweep,
                phase: task.phase,
                rung: task.rung as u32,
                block: task.block,
                chain: number as u32,
                beta: task.point.beta,
                localization: task.point.localization,
                step: task.step,
                acceptance: mean(&acceptance),
                diverged,
                not_finite,
                gradients: work.gradients,
                evaluations: work.evaluations,
                observations,
            })
        };
        let [pool] = pools else {
            let queue = Mutex::new(chains.iter_mut().enumerate());
            let done: Vec<Mutex<Option<Result<Block, ObjectiveError>>>> = (0..count).map(|_| Mutex::new(None)).collect();
            std::thread::scope(|scope| {
                for pool in pools {
                    let (queue, done, work) = (&queue, &done, &work);
                    scope.spawn(move || {
                        loop {
                            let next = queue.lock().unwrap_or_else(PoisonError::into_inner).next();
                            let Some((number, chain)) = next else { break };
                            let block = pool.install(|| work(number, chain));
                            *done[number].lock().unwrap_or_else(PoisonError::into_inner) = Some(block);
                        }
                    });
                }
            });
            let lost = || ObjectiveError::new("a chain was lost");
            let blocks =
                done.into_iter().map(|block| block.into_inner().unwrap_or_else(PoisonError::into_inner).unwrap_or_else(|| Err(lost())));
            return Ok(blocks.collect::<Result<_, _>>()?);
        };
        Ok(pool.install(|| chains.iter_mut().enumerate().map(|(number, chain)| work(number, chain)).collect::<Result<_, _>>())?)
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
