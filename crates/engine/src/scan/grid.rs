//! The values of a scan, and the steps of a training.

use std::fmt;
use std::path::Path;

use super::request::ScanKind;
use crate::error::{Context, Error};

/// One value of a grid.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct GridValue {
    pub number: f64,
    /// Whether it is a multiple of the model's own sigma.
    pub is_multiple: bool,
}

impl fmt::Display for GridValue {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&short(self.number))?;
        if self.is_multiple { f.write_str("x") } else { Ok(()) }
    }
}

/// A number in its shortest form that tells it from all others: `0.5`, `1e-6`, `131072`.
#[must_use]
pub fn short(number: f64) -> String {
    let plain = format!("{number}");
    let scientific = format!("{number:e}");
    if number != 0.0 && !(1e-3..1e7).contains(&number.abs()) { scientific } else { plain }
}

/// The grid of the paper, in words; none where the points are found instead, or there is nothing to vary.
pub(crate) fn default_grid(kind: ScanKind) -> Option<Vec<String>> {
    let grid: &[&str] = match kind {
        ScanKind::Histogram | ScanKind::Models | ScanKind::Checkpoints | ScanKind::Components => return None,
        ScanKind::Cutoff => &["1e-6", "1e-5", "1e-4", "1e-3", "1e-2", "1e-1", "1", "10", "100"],
        ScanKind::Exponent => &["0", "0.1", "0.2", "0.3", "0.4", "0.5", "0.6", "0.7", "0.8", "0.9", "1"],
        ScanKind::Epsilon => &["1e-9", "1e-8", "1e-7", "1e-6", "1e-5", "1e-4", "1e-3", "1e-2", "1e-1", "1"],
        ScanKind::Sigma => &["0.25x", "0.5x", "1x", "2x", "4x"],
        ScanKind::Samples => &["10", "30", "100", "300", "1000"],
    };
    Some(grid.iter().map(|value| (*value).to_owned()).collect())
}

/// The revisions of the Pythia models that a scan of checkpoints takes: powers of two as far as they were kept, then about the same
/// distances among the thousands, and every ten thousand.
pub(super) const HUB_STEPS: [u64; 30] = [
    1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1000, 2000, 4000, 8000, 10_000, 16_000, 20_000, 30_000, 32_000, 40_000, 50_000, 60_000, 70_000,
    80_000, 90_000, 100_000, 110_000, 120_000, 130_000, 140_000,
];

/// Understands the values of a grid.
pub(super) fn parse(kind: ScanKind, texts: &[String]) -> Result<Vec<GridValue>, Error> {
    let refuse = |why: String| Err(Error::usage(why));
    let scanned = words(kind);
    if kind.has_no_values() {
        return match (texts, kind) {
            ([], _) => Ok(Vec::new()),
            (_, ScanKind::Components) => refuse("`grid`: a scan of components has no values, choose them with `of`".to_owned()),
            _ => refuse(format!("`grid`: a scan of the kind {} varies nothing, leave the flag out", kind.name())),
        };
    }
    let values = texts.iter().map(|text| value(kind, text.trim())).collect::<Result<Vec<GridValue>, _>>()?;
    if let [one] = values.as_slice() {
        return refuse(format!("`grid` has one value, {one}: a scan of {scanned} needs two or more, increasing"));
    }
    if values.iter().any(|value| value.is_multiple != values[0].is_multiple) {
        return refuse("`grid` mixes numbers with multiples of the model's sigma: give all of its values with an x or none".to_owned());
    }
    if let Some(pair) = values.windows(2).find(|pair| pair[1].number <= pair[0].number) {
        return refuse(format!("`grid` is not increasing: {} comes after {}", pair[1], pair[0]));
    }
    Ok(values)
}

/// What is varied, in a sentence.
fn words(kind: ScanKind) -> &'static str {
    match kind {
        ScanKind::Histogram | ScanKind::Models => "nothing",
        ScanKind::Cutoff => "the cutoff",
        ScanKind::Checkpoints => "checkpoints",
        ScanKind::Exponent => "the exponent",
        ScanKind::Epsilon => "epsilon",
        ScanKind::Sigma => "sigma",
        ScanKind::Samples => "the number of samples",
        ScanKind::Components => "the components",
    }
}

fn value(kind: ScanKind, text: &str) -> Result<GridValue, Error> {
    let (number, is_multiple) = match text.strip_suffix('x') {
        Some(number) if kind == ScanKind::Sigma => (number, true),
        _ => (text, false),
    };
    let is_whole = |x: f64| x.fract() == 0.0 && x <= 1e15;
    let (is_fine, expected): (fn(f64) -> bool, _) = match kind {
        ScanKind::Cutoff | ScanKind::Epsilon | ScanKind::Histogram | ScanKind::Models | ScanKind::Components => {
            (|x| x > 0.0, "numbers > 0")
        }
        ScanKind::Sigma => (|x| x > 0.0, "numbers > 0, or multiples of the model's own such as 0.5x"),
        ScanKind::Exponent => (|x| x >= 0.0, "numbers >= 0"),
        ScanKind::Checkpoints => (|x| x >= 0.0, "steps, whole numbers"),
        ScanKind::Samples => (|x| x >= 1.0, "whole numbers from 1"),
    };
    let wants_whole = matches!(kind, ScanKind::Checkpoints | ScanKind::Samples);
    match number.parse::<f64>() {
        Ok(x) if x.is_finite() && is_fine(x) && (!wants_whole || is_whole(x)) => Ok(GridValue { number: x, is_multiple }),
        _ => Err(Error::usage(format!("`grid`: '{text}' cannot be a value of {}: expected {expected}", words(kind)))),
    }
}

/// The checkpoints of a training in a folder, by step: its folders `step-N`, `checkpoint-N` and the like, and the folder itself if it says
/// of which later step it is.
pub(super) fn steps_in(folder: &Path) -> Result<Vec<(u64, std::path::PathBuf)>, Error> {
    let entries = folder.read_dir().context(|| format!("cannot read the folder {}", folder.display()))?;
    let mut steps: Vec<(u64, std::path::PathBuf)> = entries
        .flatten()
        .filter(|entry| entry.path().is_dir())
        .filter_map(|entry| Some((step_of(&entry.file_name().to_string_lossy())?, entry.path())))
        .collect();
    if let Some(step) = own_step(folder).filter(|step| !steps.is_empty() && steps.iter().all(|(other, _)| other != step)) {
        steps.push((step, folder.to_owned()));
    }
    steps.sort();
    if let Some(twice) = steps.windows(2).find(|pair| pair[0].0 == pair[1].0) {
        let (step, first, second) = (twice[0].0, twice[0].1.display(), twice[1].1.display());
        return Err(Error::failed(format!("{first} and {second} are both of step {step}: move one of them away")));
    }
    if steps.is_empty() {
        return Err(Error::usage(format!(
            "{} holds no checkpoints of a training: expected folders step-N in it, as `train` writes them",
            folder.display()
        )));
    }
    Ok(steps)
}

/// The step of a checkpoint, as its record of the training says.
fn own_step(folder: &Path) -> Option<u64> {
    let config: serde_json::Value = serde_json::from_str(&std::fs::read_to_string(folder.join("config.json")).ok()?).ok()?;
    config["training"]["step"].as_u64()
}

fn step_of(name: &str) -> Option<u64> {
    let rest = name.strip_prefix("step").or_else(|| name.strip_prefix("checkpoint"))?;
    rest.strip_prefix(['-', '_']).unwrap_or(rest).parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn texts(values: &[&str]) -> Vec<String> {
        values.iter().map(|value| (*value).to_owned()).collect()
    }

    fn refusal(kind: ScanKind, values: &[&str]) -> String {
        match parse(kind, &texts(values)) {
            Err(Error::Usage(message)) => message,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn every_default_is_a_grid() {
        for kind in [ScanKind::Cutoff, ScanKind::Exponent, ScanKind::Epsilon, ScanKind::Sigma, ScanKind::Samples] {
            let grid = default_grid(kind).unwrap();
            let words: Vec<String> = parse(kind, &grid).unwrap().iter().map(ToString::to_string).collect();
            assert_eq!(words.len(), grid.len());
            assert_eq!(parse(kind, &words).unwrap(), parse(kind, &grid).unwrap());
        }
        assert!(HUB_STEPS.is_sorted());
    }

    #[test]
    fn grids_that_are_none_are_refused() {
        assert_eq!(refusal(ScanKind::Cutoff, &["0.1"]), "`grid` has one value, 0.1: a scan of the cutoff needs two or more, increasing");
        assert_eq!(refusal(ScanKind::Cutoff, &["0.1", "1e-6"]), "`grid` is not increasing: 1e-6 comes after 0.1");
        assert_eq!(refusal(ScanKind::Sigma, &["1", "1"]), "`grid` is not increasing: 1 comes after 1");
        assert!(refusal(ScanKind::Sigma, &["1", "2x"]).contains("mixes"));
        assert!(refusal(ScanKind::Cutoff, &["0", "1"]).contains("'0' cannot be a value of the cutoff: expected numbers > 0"));
        assert!(refusal(ScanKind::Samples, &["10", "20.5"]).contains("whole numbers"));
        assert!(refusal(ScanKind::Checkpoints, &["1", "two"]).contains("'two'"));
        assert!(refusal(ScanKind::Histogram, &["1", "2"]).contains("varies nothing"));
        assert!(refusal(ScanKind::Cutoff, &["1x", "2x"]).contains("'1x'"));
    }

    #[test]
    fn numbers_are_short_and_come_back() {
        for (number, text) in [(1e-6, "1e-6"), (0.01, "0.01"), (131_072.0, "131072"), (0.0, "0"), (2.5e9, "2.5e9")] {
            assert_eq!(short(number), text);
            assert_eq!(text.parse::<f64>().unwrap(), number);
        }
    }

    #[test]
    fn folders_of_steps_are_found_in_their_order() {
        let folder = tempfile::tempdir().unwrap();
        for name in ["step-16", "step-2", "step_0", "checkpoint-100", "steps", "other-3", "step-x"] {
            std::fs::create_dir(folder.path().join(name)).unwrap();
        }
        std::fs::write(folder.path().join("step-7"), "a file").unwrap();
        let steps: Vec<u64> = steps_in(folder.path()).unwrap().into_iter().map(|(step, _)| step).collect();
        assert_eq!(steps, [0, 2, 16, 100]);
        // The end of the training is in the folder itself.
        std::fs::write(folder.path().join("config.json"), r#"{"training": {"step": 130}}"#).unwrap();
        assert_eq!(steps_in(folder.path()).unwrap().last().unwrap(), &(130, folder.path().to_owned()));
        std::fs::create_dir(folder.path().join("step2")).unwrap();
        assert!(matches!(steps_in(folder.path()), Err(error @ Error::Failed { .. }) if error.to_string().contains("both of step 2")));
        let empty = tempfile::tempdir().unwrap();
        assert!(matches!(steps_in(empty.path()), Err(Error::Usage(message)) if message.contains("holds no checkpoints")));
    }
}
