//! `scan`: many estimates along a grid.

use std::fs;
use std::path::Path;

use basin_volume::run::driver::RunEnd;
use basin_volume_engine::error::{Context as _, Error};
use basin_volume_engine::runs::read_all;
use basin_volume_engine::scan::{self, Scan, ScanFile, Summary};
use basin_volume_report::scan::{draw, text};
use serde_json::{Map, Value};

use super::{Context, print, print_json};
use crate::args::{ScanArgs, ShowFlags};

pub fn run(args: &ScanArgs, context: &Context) -> Result<(), Error> {
    let file = match &args.config {
        Some(path) => read(path)?,
        None => Scan::default(),
    };
    let asked = args.over(file)?;
    if asked.scan.is_none() {
        return Err(Error::usage(if asked.targets.is_empty() {
            "say what is varied, such as 'scan cutoff MODEL', or give a file with --config (scan --help shows both)"
        } else {
            "targets are given, but not `scan`, which says what is varied"
        }));
    }
    if args.print_config {
        let kind = asked.kind()?;
        asked.check(kind, &asked.families()?)?;
        return print(asked.to_toml()?.trim_end());
    }
    compute(&asked, &args.show, context)
}

/// Computes what a scan lacks, and shows it.
pub fn compute(asked: &Scan, how: &ShowFlags, context: &Context) -> Result<(), Error> {
    let session = context.session(asked.machine, context.screen()).computing(asked.shard);
    let outcome = scan::run(asked, &session)?;
    for folder in &outcome.computed {
        basin_volume_report::draw(&read_all(folder)?)?;
    }
    if let Some(summary) = &outcome.summary {
        show(&outcome.folder, &outcome.file, summary, how, context)?;
    }
    if outcome.end == RunEnd::Interrupted {
        session.note("Interrupted: everything computed is in the folder of the scan; the same command continues it.");
        return Err(Error::Interrupted);
    }
    match outcome.failures.as_slice() {
        [] => Ok(()),
        [one] => Err(Error::failed(format!("{} could not be computed: {}", one.point, one.reason))),
        [first, ..] => Err(Error::failed(format!(
            "{} of {} points could not be computed; the first is {}: {}",
            outcome.failures.len(),
            outcome.file.points.len(),
            first.point,
            first.reason
        ))),
    }
}

/// Draws a scan, and shows its table.
pub fn show(folder: &Path, file: &ScanFile, summary: &Summary, show: &ShowFlags, context: &Context) -> Result<(), Error> {
    draw(folder, file, summary)?;
    if show.json {
        return print_json(summary);
    }
    context.print(&format!("{}\nFolder of the scan: {}", text(summary, show.detail()), folder.display()))
}

/// A scan from a TOML file.
fn read(path: &Path) -> Result<Scan, Error> {
    let text = fs::read_to_string(path).context(|| format!("cannot read the scan {}", path.display()))?;
    let usage = |why: String| Error::usage(format!("{}: {why}", path.display()));
    let table: toml::Table = toml::from_str(&text).map_err(|error| {
        let line = error.span().map_or(0, |span| text[..span.start.min(text.len())].lines().count().max(1));
        usage(format!("line {line} is not TOML: {}", error.message().lines().collect::<Vec<_>>().join(" ")))
    })?;
    let settings: Map<String, Value> = match serde_json::to_value(table)? {
        Value::Object(settings) => settings,
        _ => Map::new(),
    };
    Scan::from_settings(settings).map_err(|error| usage(error.to_string()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refusal(text: &str) -> String {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("scan.toml");
        fs::write(&path, text).unwrap();
        match read(&path) {
            Err(Error::Usage(message)) => message,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn files_that_make_no_sense_are_refused_in_one_line() {
        for (text, expected) in [
            ("scan = \"cutoff\"\nsampels = 3\n", "there is no setting 'sampels': expected scan, targets, grid, estimator, preconditioner"),
            ("scan = \n", "line 1 is not TOML"),
            ("scan = \"cutof\"\n", "scan cannot be \"cutof\""),
            ("scan = \"cutoff\"\nsamples = \"many\"\n", "samples cannot be \"many\""),
            ("chunk = 3\n", "chunk cannot be 3: invalid type: integer `3`, expected a boolean"),
            ("targets = [[1]]\n", "targets cannot be [[1]]"),
            ("model = \"a\"\n", "there is no setting 'model'"),
        ] {
            let message = refusal(text);
            assert!(message.contains(expected) && message.contains("scan.toml: ") && !message.contains('\n'), "{text}: {message}");
        }
    }

    #[test]
    fn what_is_typed_counts_more_than_the_file() {
        use clap::Parser;

        let args = |words: &[&str]| {
            let argv = ["basin-volume", "scan"].iter().chain(words);
            match crate::args::Cli::try_parse_from(argv).unwrap().command {
                crate::args::Command::Scan(args) => *args,
                other => panic!("{other:?}"),
            }
        };
        let typed = args(&["cutoff", "a=one", "two", "--grid", "1e-6,0.5", "--preconditioner", "none,adam2", "--preconditioner=fisher"]);
        let first = typed.over(Scan::default()).unwrap();
        assert_eq!((first.targets.len(), first.grid.len(), first.preconditioner.len()), (2, 2, 3));
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("scan.toml");
        fs::write(&path, first.to_toml().unwrap()).unwrap();
        let again = read(&path).unwrap();
        assert_eq!(again.settings().unwrap(), first.settings().unwrap());
        let other = args(&["--samples", "7", "--grid", "1,2", "--cutoff", "0.1"]).over(again).unwrap();
        assert_eq!((other.ask.samples, other.ask.cutoff, other.grid), (Some(7), Some(0.1), vec!["1".to_owned(), "2".to_owned()]));
        assert_eq!(other.targets, first.targets);
    }
}
