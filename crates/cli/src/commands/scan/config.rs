//! A scan as a TOML file: its keys are the names of the flags, whatever these are.

use std::fs;
use std::path::Path;

use anyhow::Context;
use clap::Parser;
use serde_json::{Map, Value};

use super::grid;
use crate::args::{Cli, Command, Flag, ScanArgs, ScanKind, known_names};
use crate::error::{CommandError, sentence};

/// Flags that say where and how fast, not what.
const NOT_DECISIVE: [&str; 4] = ["out", "shard", "threads", "memory"];

/// The arguments with those of `--config` beneath them.
pub fn with_file(args: &ScanArgs, path: &Path) -> Result<Box<ScanArgs>, CommandError> {
    let usage = |why: String| CommandError::usage(format!("{}: {why}", path.display()));
    let text = fs::read_to_string(path).with_context(|| format!("cannot read the scan {}", path.display()))?;
    let file: toml::Table = toml::from_str(&text).map_err(|error| {
        let line = error.span().map_or(0, |span| text[..span.start.min(text.len())].lines().count().max(1));
        usage(format!("line {line} is not TOML: {}", error.message().lines().collect::<Vec<_>>().join(" ")))
    })?;
    let known = known_names();
    let mut argv = vec!["basin-volume".to_owned(), "scan".to_owned()];
    let typed: Vec<&Flag> = args.given.0.iter().filter(|flag| flag.is_typed).collect();
    let mut positional = [Vec::new(), Vec::new()];
    let mut add = |name: &str, values: Vec<String>, is_switch: bool| match name {
        "scan" => positional[0] = values,
        "targets" => positional[1] = values,
        _ if is_switch => argv.push(format!("--{name}")),
        _ => argv.extend(values.iter().map(|value| format!("--{name}={value}"))),
    };
    for (key, value) in &file {
        let Some((name, is_switch)) = known.iter().find(|(name, _)| name == key) else {
            let names: Vec<&str> = known.iter().map(|(name, _)| name.as_str()).collect();
            return Err(usage(format!("there is no setting '{key}': expected {}", names.join(", "))));
        };
        if typed.iter().any(|flag| flag.name == *name) {
            continue;
        }
        match (value, is_switch) {
            (toml::Value::Boolean(false), true) => {}
            (toml::Value::Boolean(true), true) => add(name, Vec::new(), true),
            (_, true) => return Err(usage(format!("{key} is {value}: expected true or false"))),
            (toml::Value::Array(values), false) => {
                let values = values.iter().map(word).collect::<Option<Vec<String>>>();
                add(name, values.ok_or_else(|| usage(format!("{key} is {value}: expected a list of words or numbers")))?, false);
            }
            (value, false) => {
                let value = word(value).ok_or_else(|| usage(format!("{key} is {value}: expected a word, a number or a list of them")))?;
                add(name, vec![value], false);
            }
        }
    }
    for flag in typed.iter().filter(|flag| known.iter().any(|(name, _)| *name == flag.name)) {
        add(&flag.name, flag.values.clone(), flag.values.is_empty());
    }
    if positional[0].is_empty() && !positional[1].is_empty() {
        return Err(usage("targets are given, but not `scan`, which says what is varied".to_owned()));
    }
    argv.extend(positional.into_iter().flatten());
    let merged = parse(&argv).map_err(usage)?;
    Ok(Box::new(ScanArgs { print_config: args.print_config, json: args.json, ..merged }))
}

fn word(value: &toml::Value) -> Option<String> {
    match value {
        toml::Value::String(text) => Some(text.clone()),
        toml::Value::Integer(number) => Some(number.to_string()),
        toml::Value::Float(number) => Some(number.to_string()),
        _ => None,
    }
}

/// The arguments of a scan from words; else what is wrong, in one line.
fn parse(argv: &[String]) -> Result<ScanArgs, String> {
    match Cli::try_parse_from(argv) {
        Ok(Cli { command: Command::Scan(args) }) => Ok(*args),
        Ok(_) => Err("it is no scan".to_owned()),
        Err(error) => Err(one_line(&error)),
    }
}

/// The first paragraph of a message of the parser.
pub fn one_line(error: &clap::Error) -> String {
    let text = error.to_string();
    let first: Vec<&str> = text.lines().take_while(|line| !line.trim().is_empty()).map(str::trim).collect();
    first.join(" ").trim_start_matches("error: ").to_owned()
}

/// The settings of a scan by name, defaults included; only those that decide its results with `is_decisive`.
pub fn settings(args: &ScanArgs, is_decisive: bool) -> Map<String, Value> {
    let mut settings = Map::new();
    for flag in &args.given.0 {
        if is_decisive && NOT_DECISIVE.contains(&flag.name.as_str()) || ["config", "json", "print-config"].contains(&flag.name.as_str()) {
            continue;
        }
        let number = |text: &String| number(text).filter(|_| flag.is_number).unwrap_or_else(|| Value::String(text.clone()));
        let value = match flag.values.as_slice() {
            [] if !flag.is_list => Value::Bool(true),
            values if flag.is_list => values.iter().map(number).collect(),
            [value, ..] => number(value),
            [] => continue,
        };
        settings.insert(flag.name.clone(), value);
    }
    if let Some(kind) = args.kind
        && args.grid.is_empty()
        && let Some(values) = grid::default_grid(kind)
    {
        settings.insert("grid".to_owned(), values.iter().map(|text| number(text).unwrap_or_else(|| Value::String(text.clone()))).collect());
    }
    if args.estimator.is_empty() {
        settings.insert("estimator".to_owned(), Value::from(vec!["radial"]));
    }
    settings
}

/// A number as JSON and TOML have it: whole ones without a point.
fn number(text: &str) -> Option<Value> {
    text.parse::<u64>().map(Value::from).ok().or_else(|| text.parse::<f64>().ok().filter(|x| x.is_finite()).map(Value::from))
}

/// The settings as a TOML file, without the default of what the grid gives: read again, it would contradict the grid.
pub fn to_toml(kind: ScanKind, settings: &Map<String, Value>) -> Result<String, CommandError> {
    // What is scanned comes first; the rest in the order of the flags.
    let first = ["scan", "targets", "grid", "estimator", "preconditioner", "samples"];
    let names = first.iter().copied().chain(settings.keys().map(String::as_str).filter(|name| !first.contains(name)));
    let names = names.filter(|name| kind.replaced_flag() != Some(*name));
    let mut text = String::new();
    for name in names {
        if let Some(value) = settings.get(name) {
            let value = toml::Value::try_from(value).map_err(|error| anyhow::anyhow!("{name} cannot be written as TOML: {error}"))?;
            text += &format!("{name} = {value}\n");
        }
    }
    Ok(text)
}

/// What two scans differ in: `name: theirs in the folder, ours asked for`. Lists may have grown, and so may the number of samples.
pub fn differences(folder: &Map<String, Value>, asked: &Map<String, Value>) -> Vec<String> {
    let names: std::collections::BTreeSet<&String> = folder.keys().chain(asked.keys()).collect();
    let show = |value: &Value| if value.is_null() { "nothing".to_owned() } else { value.to_string() };
    names
        .into_iter()
        .filter_map(|name| {
            let (here, ours) = (folder.get(name).unwrap_or(&Value::Null), asked.get(name).unwrap_or(&Value::Null));
            let has_grown = match (name.as_str(), here, ours) {
                ("targets" | "grid" | "estimator" | "preconditioner", Value::Array(here), Value::Array(ours)) => {
                    here.iter().all(|value| ours.contains(value))
                }
                ("samples", here, ours) => here.as_u64() <= ours.as_u64(),
                _ => false,
            };
            (here != ours && !has_grown).then(|| format!("{name}: {} in the folder, {} asked for", show(here), show(ours)))
        })
        .collect()
}

/// The sentence of an error, for a scan that goes on.
pub fn words(error: &CommandError) -> String {
    match error {
        CommandError::Usage(message) => message.clone(),
        CommandError::Failure(error) => sentence(error),
        CommandError::Interrupted => "interrupted".to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn args(words: &[&str]) -> ScanArgs {
        let argv: Vec<String> = ["basin-volume", "scan"].iter().chain(words).map(|word| (*word).to_owned()).collect();
        parse(&argv).unwrap()
    }

    fn file(text: &str) -> (tempfile::TempDir, std::path::PathBuf) {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("scan.toml");
        fs::write(&path, text).unwrap();
        (folder, path)
    }

    fn refusal(text: &str) -> String {
        let (_folder, path) = file(text);
        match with_file(&args(&["--config", "x"]), &path) {
            Err(CommandError::Usage(message)) => message,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn what_is_written_is_read_again() {
        let typed = args(&[
            "cutoff",
            "a=one",
            "two",
            "--grid",
            "1e-6,0.5",
            "--preconditioner",
            "none,adam2",
            "--preconditioner=fisher",
            "--samples",
            "30",
            "--sigma",
            "0.04",
            "--set",
            "max_evaluations=40",
            "--chunk",
            "--estimator",
            "radial,spectral",
        ]);
        let settings_typed = settings(&typed, false);
        let text = to_toml(ScanKind::Cutoff, &settings_typed).unwrap();
        assert!(text.starts_with("scan = \"cutoff\"\ntargets = [\"a=one\", \"two\"]\ngrid = ["), "{text}");
        assert!(text.contains("samples = 30\n") && text.contains("chunk = true\n") && text.contains("seed = 42\n"), "{text}");
        assert!(!text.contains("\ncutoff = "), "{text}");
        let (_folder, path) = file(&text);
        let read = with_file(&args(&["--config", "x"]), &path).unwrap();
        assert_eq!(settings(&read, false), settings_typed);
        // What is typed counts more.
        let read = with_file(&args(&["--config", "x", "--samples", "7", "--grid", "1,2"]), &path).unwrap();
        assert_eq!(settings(&read, false)["samples"], 7);
        assert_eq!(read.grid, ["1", "2"]);
        assert_eq!(read.targets, ["a=one", "two"]);
    }

    #[test]
    fn files_that_make_no_sense_are_refused_in_one_line() {
        for (text, expected) in [
            ("scan = \"cutoff\"\nsampels = 3\n", "there is no setting 'sampels': expected grid, estimator, preconditioner"),
            ("scan = \n", "line 1 is not TOML"),
            ("scan = \"cutof\"\n", "invalid value 'cutof'"),
            ("scan = \"cutoff\"\nsamples = \"many\"\n", "invalid value 'many' for '--samples <N>'"),
            ("chunk = 3\n", "chunk is 3: expected true or false"),
            ("targets = [[1]]\n", "targets is [[1]]: expected a list of words or numbers"),
            ("targets = [\"a\"]\n", "targets are given, but not `scan`"),
            ("model = \"a\"\n", "there is no setting 'model'"),
        ] {
            let message = refusal(text);
            assert!(message.contains(expected) && message.contains("scan.toml: ") && !message.contains('\n'), "{text}: {message}");
        }
    }

    #[test]
    fn scans_may_grow_but_not_change() {
        let first = settings(&args(&["cutoff", "a", "--grid", "0.1,1", "--samples", "10"]), true);
        let grown = settings(&args(&["cutoff", "a", "b", "--grid", "0.01,0.1,1", "--samples", "20", "--threads", "1"]), true);
        assert!(differences(&first, &grown).is_empty());
        assert_eq!(differences(&grown, &first).len(), 3);
        let other = settings(&args(&["sigma", "a", "--grid", "0.1,1", "--samples", "10", "--seed", "3"]), true);
        assert_eq!(
            differences(&first, &other),
            ["scan: \"cutoff\" in the folder, \"sigma\" asked for", "seed: 42 in the folder, 3 asked for"]
        );
    }
}
