//! DeepSpeed's ZeRO stages 1 and 2: every rank writes its partition of each flat group, padded at the end of the last one, into
//! `*zero_pp_rank_<rank>_mp_rank_00_optim_states.pt`.

use std::path::{Path, PathBuf};

use basin_volume_data::pickle::Value;

use super::flat::{self, Flat, Group};
use super::objects::{self, Objects};
use super::{Center, Moments, OptimizerError, Stored};
use crate::parameters::ParameterLayout;
use crate::weights::stored::StoredTensor;

const MIDDLE: &str = "zero_pp_rank_";
const END: &str = "_optim_states.pt";

/// The data-parallel and the model-parallel rank in a file's name.
pub(super) fn rank(name: &str) -> Option<(usize, usize)> {
    let (start, rest) = name.strip_suffix(END)?.split_once(MIDDLE)?;
    let (rank, model) = rest.split_once("_mp_rank_")?;
    if !["", "bf16_", "fp16_"].contains(&start) {
        return None;
    }
    Some((rank.parse().ok()?, model.parse().ok()?))
}

pub(super) fn files(names: &[String]) -> Vec<String> {
    names.iter().filter(|name| rank(name).is_some()).cloned().collect()
}

/// The files of all ranks in their order.
pub(super) fn find(folder: &Path) -> Result<Option<Vec<PathBuf>>, OptimizerError> {
    let io = |source| OptimizerError::Io { path: folder.to_owned(), source };
    let mut found = Vec::new();
    for entry in std::fs::read_dir(folder).map_err(io)? {
        let path = entry.map_err(io)?.path();
        if let Some(ranks) = path.file_name().and_then(|name| rank(&name.to_string_lossy())) {
            found.push((ranks, path));
        }
    }
    found.sort();
    let fault = |path: &Path, problem: String| Err(OptimizerError::Format { path: path.to_owned(), problem });
    for (index, ((rank, model), path)) in found.iter().enumerate() {
        if *model != 0 {
            return fault(path, "the model is split over several ranks (mp_rank), which is not read".to_owned());
        }
        if *rank != index {
            return fault(folder, format!("it lacks the partition of rank {index} ({MIDDLE}{index}_mp_rank_00{END})"));
        }
    }
    Ok((!found.is_empty()).then(|| found.into_iter().map(|(_, path)| path).collect()))
}

/// What one rank has of one group.
struct Partition {
    master: StoredTensor,
    moments: Stored,
}

pub(super) fn read(files: &[PathBuf], layout: &ParameterLayout, center: Center) -> Result<Moments, OptimizerError> {
    let mut step = 0;
    let mut groups: Vec<[Vec<StoredTensor>; 3]> = Vec::new();
    for (rank, path) in files.iter().enumerate() {
        let (partitions, steps) = objects::open(path, |objects| partitions(objects, files.len()))?;
        step = step.max(steps);
        if rank == 0 {
            groups.resize_with(partitions.len(), Default::default);
        }
        if partitions.len() != groups.len() {
            let problem = format!("it has {} groups of parameters, and the first rank {}", partitions.len(), groups.len());
            return Err(OptimizerError::Format { path: path.clone(), problem });
        }
        for (group, Partition { master, moments }) in groups.iter_mut().zip(partitions) {
            for (pieces, piece) in group.iter_mut().zip([master, moments.first, moments.second]) {
                pieces.push(piece);
            }
        }
    }
    let join = |[master, first, second]: [Vec<StoredTensor>; 3]| Group {
        master: Flat::new(master),
        first: Flat::new(first),
        second: Flat::new(second),
    };
    let groups: Vec<Group> = groups.into_iter().map(join).collect();
    flat::read(&files[0], &groups, layout, center, step)
}

/// The partitions of one rank, of `ranks`.
fn partitions(objects: &Objects, ranks: usize) -> Result<(Vec<Partition>, u64), OptimizerError> {
    let root = objects.get(objects.root(), "the file", "optimizer_state_dict")?;
    if objects.find(root, "fp32_flat_groups").is_some() {
        return Err(objects.fault("it is of ZeRO stage 3, which is not read: stages 1 and 2 are"));
    }
    check_count(objects, root, ranks)?;
    let masters = objects.flat_groups(root, "single_partition_of_fp32_groups")?;
    let base = objects.get(root, "optimizer_state_dict", "base_optimizer_state")?;
    // A dictionary with the state of the optimizer inside, or, of checkpoints for any number of ranks, a list of the groups' states.
    let dictionary = objects.find(base, "state");
    let settings = objects.find(base, "param_groups").map(|groups| objects.items(groups, "param_groups")).transpose()?;
    let mut found = Vec::new();
    let mut step = 0;
    for (number, &master) in masters.iter().enumerate() {
        let place = format!("base_optimizer_state.{number}");
        let state = match dictionary {
            Some(states) => objects.at(states, number),
            None => objects.items(base, "base_optimizer_state")?.get(number).copied(),
        };
        let state = state.ok_or_else(|| objects.fault(format!("it lacks `{place}`")))?;
        let master = objects.tensor(master, &format!("single_partition_of_fp32_groups.{number}"))?;
        let moments = objects.moments(state, &place)?;
        if moments.first.len() != master.len() {
            let problem = format!("its `{place}` has {} elements, but its weights {}", moments.first.len(), master.len());
            return Err(objects.fault(problem));
        }
        let setting = settings.and_then(|settings| settings.get(number).copied());
        let steps = match objects.find(root, "base_optimizer_state_step") {
            Some(steps) => objects.step(steps)?,
            None => objects.steps_of(&[Some(state), setting, Some(objects.root())])?,
        };
        step = step.max(steps);
        found.push(Partition { master, moments });
    }
    Ok((found, step))
}

/// Compares the number of files with that of ranks: a number, or one for every group.
fn check_count(objects: &Objects, root: Value, ranks: usize) -> Result<(), OptimizerError> {
    let Some(count) = objects.find(root, "partition_count") else { return Ok(()) };
    let counts = match count {
        Value::Int(_) => vec![count],
        other => objects.items(other, "partition_count")?.to_vec(),
    };
    match counts.iter().find(|count| !matches!(count, Value::Int(number) if usize::try_from(*number) == Ok(ranks))) {
        Some(Value::Int(number)) => Err(objects.fault(format!("it is one of {number} partitions, but {ranks} files are there"))),
        Some(_) => Err(objects.fault("its `partition_count` is not a number")),
        None => Ok(()),
    }
}
