//! `merge`: shards become one run.

use basin_volume_engine::error::Error;
use basin_volume_engine::merge::{Merged, merge};
use basin_volume_report::draw;

use super::{Context, estimate, scan};
use crate::args::MergeArgs;

pub fn run(args: &MergeArgs, context: &Context) -> Result<(), Error> {
    match merge(&args.folders, &args.out)? {
        Merged::Scan { file, summary } => scan::show(&args.out, &file, &summary, &args.show, context),
        Merged::Runs { groups, is_together } => {
            draw(&groups)?;
            estimate::show(&groups, is_together, &args.out, &args.show, context)
        }
    }
}
