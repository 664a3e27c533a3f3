//! The one command that would improve what was found, with its time.

use basin_volume::run::answer::{Measured, Trust};
use basin_volume::spec::EstimatorSpec;
use basin_volume_engine::estimators::Run;
use basin_volume_engine::forecast::duration;
use basin_volume_engine::runs::RunGroup;

/// The answer that is quoted: that of the star, if there is one.
pub(crate) fn best(groups: &[RunGroup]) -> Option<&Run> {
    let runs = groups.iter().filter(|group| group.together.is_none()).flat_map(|group| &group.runs);
    runs.filter(|run| run.answer.trust == Trust::Answer).min_by_key(|run| run.answer.measures != Measured::Star)
}

/// What to do next, in a sentence with its settings in backticks; none where the number is as good as numbers are compared, and for several data,
/// which say themselves what they lack.
pub(crate) fn improvement(groups: &[RunGroup]) -> Option<String> {
    let runs = || groups.iter().filter(|group| group.together.is_none()).flat_map(|group| &group.runs);
    let is_chains = |run: &&Run| matches!(run.manifest.spec.estimator, EstimatorSpec::Annealed(_));
    if let Some(run) = runs().find(|run| !run.answer.is_volume()) {
        return more_rounds(run);
    }
    let Some(run) = best(groups).or_else(|| runs().find(is_chains)) else {
        return runs().next().map(|_| {
            "For an answer: the same command with `estimator=annealed`, or with `estimator=all`, which says how long everything takes before it \
             begins."
                .to_owned()
        });
    };
    let answer = &run.answer;
    if answer.work_until(answer.compared_half_width()).is_some_and(|work| work <= 1.0) {
        return None;
    }
    let samples = run.manifest.samples.max(1);
    if is_chains(&run) {
        let set = if answer.measures == Measured::Star { " `set_kind=star`" } else { "" };
        return Some(format!(
            "To improve {}: the same command with `estimator={}`{set} `out={}` `continue` adds a sweep, {} more.",
            if answer.trust == Trust::Answer { "the answer" } else { "it" },
            run.estimator(),
            run.folder.display(),
            about(answer.seconds / samples as f64),
        ));
    }
    Some(format!("To halve the interval: the same command with `samples={}`, {} more.", 4 * samples, about(3.0 * answer.seconds)))
}

/// A round more, where the number is not as good as it was asked for.
fn more_rounds(run: &Run) -> Option<String> {
    (run.answer.trust != Trust::Answer && run.answer.seconds > 0.0).then(|| {
        format!(
            "For more trajectories: the same command with `out={}` `continue` adds as many again, {} more.",
            run.folder.display(),
            about(run.answer.seconds)
        )
    })
}

/// A time that is no promise.
fn about(seconds: f64) -> String {
    if seconds < 1.0 { duration(seconds) } else { format!("about {}", duration(seconds)) }
}
