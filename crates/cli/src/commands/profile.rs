//! `profile`: the cost along one ray.

use basin_volume::run::folder::write_json;
use basin_volume_engine::error::{Context as _, Error};
use basin_volume_engine::loaded::Loaded;
use basin_volume_engine::profile::{self, ProfileRequest};
use basin_volume_engine::request::Ask;
use basin_volume_engine::subject::Subject;
use basin_volume_report::{draw_profile, profile_text};

use super::{Context, print_json};
use crate::args::ProfileArgs;

pub fn run(args: &ProfileArgs, context: &Context) -> Result<(), Error> {
    let mut ask = Ask::default();
    args.rays.apply(&mut ask);
    let request = ProfileRequest {
        ask,
        index: args.index,
        points: args.points,
        extent: args.extent,
        preconditioner: args.preconditioner.clone(),
        save_direction: args.save_direction.clone(),
    };
    request.check()?;
    let session = context.session(args.machine.machine(), context.screen());
    let loaded = Loaded::load(&args.model, &args.cost.request(), &session)?;
    let profile = profile::run(&request, &loaded, &session)?;
    if let Some(out) = &args.out {
        std::fs::create_dir_all(out).context(|| format!("cannot create {}", out.display()))?;
        write_json(&out.join("profile.json"), &profile)?;
        draw_profile(&profile, loaded.name(), out)?;
    }
    if args.json { print_json(&profile) } else { context.print(&profile_text(&profile)) }
}
