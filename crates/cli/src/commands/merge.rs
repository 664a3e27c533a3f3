//! `merge`: shards become one run.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::path::PathBuf;

use anyhow::anyhow;
use basin_volume::estimator::radial::Sample;
use basin_volume::run::folder::{self, names};
use basin_volume::run::result::RunResult;

use super::estimate::{finish, print_results};
use super::print;
use super::report::{read, run_folders};
use crate::args::MergeArgs;
use crate::error::CommandResult;
use crate::present::{self, Run};

pub fn run(args: &MergeArgs) -> CommandResult {
    // Shards of a group (several preconditioners) are merged name by name.
    let mut by_name: BTreeMap<OsString, Vec<PathBuf>> = BTreeMap::new();
    let mut groups = 0;
    for folder in &args.folders {
        let (inside, is_group) = run_folders(folder)?;
        groups += usize::from(is_group);
        for run in inside {
            let name = if is_group { run.file_name().unwrap_or_default().to_owned() } else { OsString::new() };
            by_name.entry(name).or_default().push(run);
        }
    }
    if groups != 0 && groups != args.folders.len() {
        return Err(anyhow!("some of the folders are single runs and some hold several: merge them separately").into());
    }
    let mut runs: Vec<Run> = Vec::new();
    for (name, folders) in &by_name {
        let out = if name.is_empty() { args.out.clone() } else { args.out.join(name) };
        let seconds: f64 = folders.iter().filter_map(|f| folder::read_result(f)).map(|result: RunResult| result.seconds).sum();
        folder::merge::<Sample>(folders, &out)?;
        let mut run = read(&out)?;
        run.result.seconds = seconds;
        folder::write_json(&out.join(names::RESULT), &run.result)?;
        runs.push(run);
    }
    runs.sort_by_key(|run| run.result.preconditioner != "none");
    finish(&runs, (groups > 0).then_some(args.out.as_path()))?;
    if args.json { print_results(&runs) } else { print(&format!("{}\nRun folder: {}", present::report(&runs), args.out.display())) }
}
