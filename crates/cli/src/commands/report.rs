//! `report`: the result of a run folder, from its files alone.

use basin_volume_engine::comparison;
use basin_volume_engine::error::Error;
use basin_volume_engine::runs::{estimator_folders, read_all};
use basin_volume_engine::scan::{ScanFile, is_scan, summarize};
use basin_volume_report::{draw, run_page};

use super::{Context, estimate, scan};
use crate::args::ReportArgs;

pub fn run(args: &ReportArgs, context: &Context) -> Result<(), Error> {
    let folder = &args.folder;
    if is_scan(folder) {
        let file = ScanFile::read(folder)?;
        let summary = summarize(folder, &file)?;
        scan::show(folder, &file, &summary, &args.show, context)?;
        return match &args.html {
            Some(path) => basin_volume_report::scan::page(folder, &file, &summary).saying(|text| context.words.say(text)).write(path),
            None => Ok(()),
        };
    }
    let is_together = estimator_folders(folder).is_together;
    let groups = read_all(folder)?;
    comparison::write(&groups, is_together.then_some(folder.as_path()))?;
    draw(&groups)?;
    estimate::show(&groups, is_together, folder, &args.show, context)?;
    match &args.html {
        Some(path) => run_page(&groups, folder)?.saying(|text| context.words.say(text)).write(path),
        None => Ok(()),
    }
}
