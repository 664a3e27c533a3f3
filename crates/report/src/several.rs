//! How runs on several data look.

use basin_volume_engine::estimators::Run;
use basin_volume_engine::numbers::{grouped, interval_words, nats};
use basin_volume_engine::runs::RunGroup;
use basin_volume_engine::several::Together;

use crate::presenter::presenter;
use crate::table::plain_table;

/// The runs as their estimator shows them, and what they say together.
pub(crate) fn text(group: &RunGroup, together: &Together) -> String {
    let runs: Vec<&Run> = group.runs.iter().collect();
    let Some(first) = runs.first() else { return "no runs".to_owned() };
    let presenter = presenter(first.estimator());
    let words = together.words.as_ref().map_or_else(String::new, |words| format!("\n{words}\n"));
    if presenter.draws_groups() {
        return presenter.text(&runs) + &words;
    }
    let own: String = runs.iter().map(|run| presenter.text(&[run]) + "\n").collect();
    format!("{own}On all data:\n{}\n{words}", table(&runs))
}

/// One row per data set, and one for all.
fn table(runs: &[&Run]) -> String {
    let names = ["data", "measures", "log-probability (nats)", "95 % interval", "trust", "gradients", "seconds"];
    let row = |run: &&Run| {
        let answer = &run.answer;
        vec![
            run.data.clone().unwrap_or_default(),
            answer.set().to_owned(),
            nats(answer.log_probability),
            interval_words(answer.interval),
            answer.trust.words().to_owned(),
            grouped(answer.gradients),
            format!("{:.1}", answer.seconds),
        ]
    };
    plain_table(&names, &[2, 5, 6], runs.iter().map(row))
}
