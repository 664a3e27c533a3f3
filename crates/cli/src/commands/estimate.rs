//! `estimate`: the main job.

use std::path::Path;
use std::time::Duration;

use basin_volume::interrupt::Interrupt;
use basin_volume::run::driver::RunEnd;
use basin_volume_engine::error::Error;
use basin_volume_engine::estimate::{self, Outcome};
use basin_volume_engine::loaded::Loaded;
use basin_volume_engine::prior_mean::{self, AroundBase};
use basin_volume_engine::request::TimeLimit;
use basin_volume_engine::runs::RunGroup;
use basin_volume_engine::several::{self, OnData};
use basin_volume_engine::{comparison, session::Session};

use super::{Context, print_json, scan};
use crate::args::{EstimateArgs, ShowFlags};
use crate::screen::say;

pub fn run(args: &EstimateArgs, context: &Context) -> Result<(), Error> {
    if args.models.len() > 1 {
        return scan::compute(&args.comparison()?, &args.show, context);
    }
    let estimate = args.request()?;
    let session = context.session(estimate.machine, context.screen()).computing(estimate.shard);
    if let Some(TimeLimit(seconds)) = args.time_limit.filter(|_| !estimate.is_all()) {
        stop_after(Duration::try_from_secs_f64(seconds).unwrap_or(Duration::MAX), &context.interrupt);
    }
    let cost = args.cost.request();
    prior_mean::check(&estimate, &cost)?;
    let outcome = if cost.data.data.len() > 1 {
        several::check(&estimate)?;
        let loaded = several::load(args.model(), &cost, &estimate, &session)?;
        let on: Vec<OnData<'_>> = loaded.iter().map(|(name, subject)| OnData { name: name.clone(), subject }).collect();
        several::run(&estimate, &on, &session)?
    } else {
        estimate::check(&estimate)?;
        let loaded = Loaded::load(args.model(), &cost, &session)?;
        match &estimate.prior_mean {
            Some(base) => estimate::run(&estimate, &AroundBase::load(loaded, base, &cost, &session)?, &session)?,
            None => estimate::run(&estimate, &loaded, &session)?,
        }
    };
    let Outcome { groups, folder, is_together, end, left_out } = &outcome;
    basin_volume_report::draw(groups)?;
    ended(*end, &session, || {
        show(groups, *is_together, folder, &args.show, context)?;
        // Standard output is JSON alone where that is asked for.
        left_out.iter().filter(|_| !args.show.json).try_for_each(|words| context.print(&format!("\n{words}")))
    })
}

/// Stops the work when the time is over.
fn stop_after(time: Duration, interrupt: &Interrupt) {
    let interrupt = interrupt.clone();
    std::thread::spawn(move || {
        std::thread::sleep(time);
        interrupt.raise();
        say("The time limit is reached.");
        crate::stopping(&interrupt);
    });
}

/// Shows what a folder holds, and says when it is not all.
fn ended(end: RunEnd, session: &Session, show: impl FnOnce() -> Result<(), Error>) -> Result<(), Error> {
    show()?;
    match end {
        RunEnd::Completed => Ok(()),
        RunEnd::Interrupted => {
            session.note("Interrupted: everything computed is in the run folder; the same command continues it.");
            Err(Error::Interrupted)
        }
    }
}

/// Shows groups of runs, as JSON or as text.
pub fn show(groups: &[RunGroup], is_together: bool, folder: &Path, show: &ShowFlags, context: &Context) -> Result<(), Error> {
    if show.json {
        return print_json(&comparison::json(groups, is_together)?);
    }
    context.print(&basin_volume_report::text(groups, is_together, folder, show.detail())?)
}
