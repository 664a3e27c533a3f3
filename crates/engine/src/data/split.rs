//! Configurations and splits of a data set, told from the names of its parquet files.
//!
//! `en/test-00000-of-00001.parquet`, `data/test-00000-of-00002-0a1b2c.parquet`, `test.parquet`, or, on the branch that the hub writes,
//! `config/test/0000.parquet`. A folder `data` is no configuration; files without one belong to `default`.

use serde::Serialize;

use crate::error::Error;

/// The configuration of files that are in no folder of their own.
const DEFAULT: &str = "default";

/// Chosen files of a data set.
#[derive(Debug, Clone, Serialize)]
pub struct Choice {
    /// Configurations.
    pub configs: Vec<String>,
    /// Splits.
    pub splits: Vec<String>,
    /// Names in the repository, in the order they are read.
    pub names: Vec<String>,
}

/// Configuration and split of a file.
fn parse(name: &str) -> (String, String) {
    let path = name.strip_suffix(".parquet").unwrap_or(name);
    let mut folders: Vec<&str> = path.split('/').collect();
    let stem = folders.pop().unwrap_or_default();
    let digits = |text: &str| !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
    let split = match (digits(stem), folders.last().copied()) {
        (true, Some(folder)) => {
            folders.pop();
            folder
        }
        _ => without_shard(stem),
    };
    if folders.first() == Some(&"data") {
        folders.remove(0);
    }
    let config = if folders.is_empty() { DEFAULT.to_owned() } else { folders.join("/") };
    (config, split.to_owned())
}

/// `test` of `test-00000-of-00001` and of `test-00000-of-00001-0a1b2c`.
fn without_shard(stem: &str) -> &str {
    let digits = |text: &str| !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
    let Some((before, after)) = stem.split_once("-of-") else { return stem };
    let Some((split, shard)) = before.rsplit_once('-') else { return stem };
    if digits(shard) && digits(after.split('-').next().unwrap_or_default()) { split } else { stem }
}

/// Each value once, in the order of first appearance.
fn distinct<'a>(values: impl Iterator<Item = &'a String>) -> Vec<String> {
    let mut found: Vec<String> = Vec::new();
    for value in values {
        if !found.contains(value) {
            found.push(value.clone());
        }
    }
    found
}

/// Chooses among the files: `default` or the only configuration, and the only split, where nothing is asked for.
pub(crate) fn choose(id: &str, names: &[String], configs: &[String], splits: &[String]) -> Result<Choice, Error> {
    let files: Vec<(String, String, &String)> = names
        .iter()
        .map(|name| {
            let (config, split) = parse(name);
            (config, split, name)
        })
        .collect();
    if files.is_empty() {
        return Err(Error::usage(format!("the data set {id} has no parquet files to choose from: leave `data_config` and `split` out")));
    }
    let all = distinct(files.iter().map(|(config, _, _)| config));
    let configs = pick(id, "data_config", "configurations", &all, configs, Some(DEFAULT))?;
    let mut chosen = Choice { configs: configs.clone(), splits: Vec::new(), names: Vec::new() };
    for config in &configs {
        let of_config = || files.iter().filter(|(own, _, _)| own == config);
        let all = distinct(of_config().map(|(_, split, _)| split));
        let whole = if config == DEFAULT { id.to_owned() } else { format!("{id}, {config}") };
        for split in pick(&whole, "split", "splits", &all, splits, None)? {
            chosen.names.extend(of_config().filter(|(_, own, _)| *own == split).map(|(_, _, name)| (*name).clone()));
            if !chosen.splits.contains(&split) {
                chosen.splits.push(split);
            }
        }
    }
    Ok(chosen)
}

/// What was asked for if it exists, else `preferred`, else the only one there is.
pub(crate) fn pick(
    whole: &str,
    setting: &str,
    noun: &str,
    all: &[String],
    asked: &[String],
    preferred: Option<&str>,
) -> Result<Vec<String>, Error> {
    let list = || {
        const SHOWN: usize = 20;
        let shown: Vec<&str> = all.iter().take(SHOWN).map(String::as_str).collect();
        let others = if all.len() > SHOWN { format!(" and {} others", all.len() - SHOWN) } else { String::new() };
        format!("{}{others}", shown.join(", "))
    };
    if let Some(absent) = asked.iter().find(|name| !all.contains(name)) {
        return Err(Error::usage(format!("the data set {whole} has no `{setting}={absent}`: its {noun} are {}", list())));
    }
    if let Some(twice) = asked.iter().enumerate().find(|(index, name)| asked[..*index].contains(name)) {
        return Err(Error::usage(format!("`{setting}` names {} twice", twice.1)));
    }
    if !asked.is_empty() {
        return Ok(asked.to_vec());
    }
    if let Some(preferred) = preferred.filter(|preferred| all.iter().any(|name| name == preferred)) {
        return Ok(vec![preferred.to_owned()]);
    }
    match all {
        [one] => Ok(vec![one.clone()]),
        many => Err(Error::usage(format!(
            "the data set {whole} has {} {noun}: choose with `{setting}`, for instance `{setting}={}`, among {}",
            many.len(),
            many.iter().find(|name| ["test", "en"].contains(&name.as_str())).or(many.first()).map_or("", String::as_str),
            list()
        ))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(names: &[&str]) -> Vec<String> {
        names.iter().map(|name| (*name).to_owned()).collect()
    }

    fn refusal(result: Result<Choice, Error>) -> String {
        match result {
            Err(Error::Usage(message)) => message,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn file_names_tell_configuration_and_split() {
        let cases = [
            ("en/test-00000-of-00001.parquet", "en", "test"),
            ("data/test-00000-of-00002.parquet", "default", "test"),
            ("data/train-00001-of-00002-a09b74b3ef9c3b56.parquet", "default", "train"),
            ("default/test/0000.parquet", "default", "test"),
            ("wikitext-2-raw-v1/validation/0012.parquet", "wikitext-2-raw-v1", "validation"),
            ("data/train/0000.parquet", "default", "train"),
            ("test.parquet", "default", "test"),
            ("a/b/part-of-it.parquet", "a/b", "part-of-it"),
            ("0000.parquet", "default", "0000"),
        ];
        for (name, config, split) in cases {
            assert_eq!(parse(name), (config.to_owned(), split.to_owned()), "{name}");
        }
    }

    #[test]
    fn a_choice_is_made_only_where_there_is_one() {
        let files = names(&["data/test-00000-of-00001.parquet", "de/test-00000-of-00001.parquet", "en/test-00000-of-00001.parquet"]);
        assert_eq!(choose("o/d", &files, &[], &[]).unwrap().names, files[..1]);
        let both = choose("o/d", &files, &names(&["en", "de"]), &names(&["test"])).unwrap();
        assert_eq!(both.names, [files[2].clone(), files[1].clone()]);
        assert_eq!(both.splits, ["test"]);
        let message = refusal(choose("o/d", &files[1..], &[], &[]));
        assert_eq!(
            message,
            "the data set o/d has 2 configurations: choose with `data_config`, for instance `data_config=en`, among de, en"
        );
        assert!(
            refusal(choose("o/d", &files, &names(&["fr"]), &[]))
                .contains("has no `data_config=fr`: its configurations are default, de, en")
        );
        assert!(refusal(choose("o/d", &files, &names(&["en", "en"]), &[])).contains("`data_config` names en twice"));
    }

    #[test]
    fn splits_are_joined_in_the_order_asked_for() {
        let files = names(&["c/test/0000.parquet", "c/train/0000.parquet", "c/train/0001.parquet"]);
        let message = refusal(choose("o/d", &files, &[], &[]));
        assert_eq!(message, "the data set o/d, c has 2 splits: choose with `split`, for instance `split=test`, among test, train");
        assert_eq!(choose("o/d", &files, &[], &names(&["train"])).unwrap().names, files[1..]);
        let joined = choose("o/d", &files, &[], &names(&["train", "test"])).unwrap();
        assert_eq!(joined.names, [files[1].clone(), files[2].clone(), files[0].clone()]);
    }
}
