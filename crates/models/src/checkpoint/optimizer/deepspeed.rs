//! DeepSpeed without ZeRO, as GPT-NeoX (and so Pythia) was trained: in `mp_rank_00_model_states.pt`, `optimizer.fp32_groups_flat[g]` holds
//! the master weights of group g, `optimizer.optimizer_state_dict.state[g]` its moments.

use std::path::{Path, PathBuf};

use super::flat::{self, Flat, Group};
use super::objects;
use super::{Center, Moments, OptimizerError, first_name, first_of};
use crate::parameters::ParameterLayout;

const NAME: &str = "mp_rank_00_model_states.pt";

pub(super) fn is_name(name: &str) -> bool {
    name == NAME
}

pub(super) fn files(names: &[String]) -> Vec<String> {
    first_name(names, &[NAME])
}

pub(super) fn find(folder: &Path) -> Result<Option<Vec<PathBuf>>, OptimizerError> {
    let Some(files) = first_of(folder, &[NAME]) else { return Ok(None) };
    if folder.join(NAME.replace("00", "01")).exists() {
        let problem = "the model is split over several ranks (mp_rank_01 is beside it), which is not read".to_owned();
        return Err(OptimizerError::Format { path: files[0].clone(), problem });
    }
    Ok(Some(files))
}

pub(super) fn read(files: &[PathBuf], layout: &ParameterLayout, center: Center) -> Result<Moments, OptimizerError> {
    let path = &files[0];
    let (groups, step) = objects::open(path, |objects| {
        let root = objects.root();
        let optimizer = objects.find(root, "optimizer");
        let optimizer = optimizer.ok_or_else(|| {
            objects
                .fault("it has no `optimizer`: with ZeRO the state is in the files *_optim_states.pt of all ranks, which belong beside it")
        })?;
        let masters = objects.flat_groups(optimizer, "fp32_groups_flat")?;
        let inner = objects.get(optimizer, "optimizer", "optimizer_state_dict")?;
        let state = objects.get(inner, "optimizer_state_dict", "state")?;
        let settings = objects.find(inner, "param_groups").map(|groups| objects.items(groups, "param_groups")).transpose()?;
        let mut groups = Vec::new();
        let mut step = 0;
        for (number, &master) in masters.iter().enumerate() {
            let master = objects.tensor(master, &format!("fp32_groups_flat.{number}"))?;
            if master.len() == 0 {
                continue;
            }
            let place = format!("state.{number}");
            let own = objects.at(state, number).ok_or_else(|| objects.fault(format!("it lacks `{place}`")))?;
            let moments = objects.moments(own, &place)?;
            if moments.first.len() != master.len() {
                let problem = format!("its `{place}` has {} elements, but its weights {}", moments.first.len(), master.len());
                return Err(objects.fault(problem));
            }
            let setting = settings.and_then(|settings| settings.get(number).copied());
            step = step.max(objects.steps_of(&[Some(own), setting, Some(root)])?);
            let one = |tensor| Flat::new(vec![tensor]);
            groups.push(Group { master: one(master), first: one(moments.first), second: one(moments.second) });
        }
        Ok((groups, step))
    })?;
    flat::read(path, &groups, layout, center, step)
}
