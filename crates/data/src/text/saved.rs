//! Folders that `save_to_disk` of the library `datasets` writes, and the files of descriptions that it leaves beside data.

use std::path::{Path, PathBuf};

use serde::Deserialize;

use super::error::{Place, TextError};
use crate::json;

/// Descriptions of data sets, by their names: no documents, though they end in `.json`.
const METADATA: [&str; 4] = ["dataset_info.json", "dataset_infos.json", "dataset_dict.json", "state.json"];

/// One split of a data set that was saved to a folder.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SavedSplit {
    /// Its name; a data set that was saved alone may have none.
    pub name: Option<String>,
    /// Its files in the order of their rows.
    pub files: Vec<PathBuf>,
}

/// Which splits the folder holds.
#[derive(Deserialize)]
struct Splits {
    splits: Vec<String>,
}

/// What the folder of a split says about itself.
#[derive(Deserialize)]
struct State {
    #[serde(rename = "_data_files")]
    files: Vec<DataFile>,
    /// Of versions before 1.7: an order of the rows that is kept beside them.
    #[serde(rename = "_indices_data_files", default)]
    indices: Option<Vec<DataFile>>,
    #[serde(rename = "_split", default)]
    split: Option<String>,
}

#[derive(Deserialize)]
struct DataFile {
    filename: String,
}

/// The splits of a data set that `save_to_disk` wrote into this folder; `None` when it is another folder. Choose one and read its files with
/// [`Documents::of_files`](super::Documents::of_files).
///
/// # Errors
/// When a description is damaged, or a file that it names is missing.
pub fn saved_splits(folder: &Path) -> Result<Option<Vec<SavedSplit>>, TextError> {
    let path = folder.join("dataset_dict.json");
    if path.is_file() {
        let names: Splits = description(&path)?;
        let splits = names.splits.into_iter().map(|name| {
            let inner = folder.join(plain_name(&path, &name)?);
            Ok(SavedSplit { name: Some(name), ..saved_split(folder, &inner)? })
        });
        return splits.collect::<Result<_, _>>().map(Some);
    }
    if folder.join("state.json").is_file() && folder.join("dataset_info.json").is_file() {
        return Ok(Some(vec![saved_split(folder, folder)?]));
    }
    Ok(None)
}

fn saved_split(whole: &Path, folder: &Path) -> Result<SavedSplit, TextError> {
    let path = folder.join("state.json");
    let incomplete = |file: PathBuf| TextError::Incomplete { path: whole.to_owned(), file };
    if !path.is_file() {
        return Err(incomplete(path));
    }
    let state: State = description(&path)?;
    if state.indices.is_some_and(|files| !files.is_empty()) {
        return Err(malformed(&path, "it keeps the order of its rows in another file: save it again with a current version of `datasets`"));
    }
    let mut files = Vec::with_capacity(state.files.len());
    for file in &state.files {
        let file = folder.join(plain_name(&path, &file.filename)?);
        if !file.is_file() {
            return Err(incomplete(file));
        }
        files.push(file);
    }
    Ok(SavedSplit { name: state.split, files })
}

/// A name of something in the same folder, and not a way out of it.
fn plain_name<'a>(path: &Path, name: &'a str) -> Result<&'a str, TextError> {
    if Path::new(name).file_name().is_some_and(|own| own == name) {
        return Ok(name);
    }
    Err(malformed(path, &format!("it names {name:?}, which is not in its folder")))
}

fn description<T: for<'de> Deserialize<'de>>(path: &Path) -> Result<T, TextError> {
    let content = std::fs::read(path).map_err(|source| TextError::Io { path: path.to_owned(), source })?;
    json::from_slice(&content).map_err(|problem| malformed(path, &problem))
}

fn malformed(path: &Path, problem: &str) -> TextError {
    TextError::Malformed { path: path.to_owned(), place: Place::File, format: "description of a data set", problem: problem.to_owned() }
}

/// Whether a file is of a data set's keeping and holds no documents: a description, or a table that `datasets` keeps for itself.
pub(super) fn is_kept_beside(path: &Path) -> bool {
    let Some(name) = path.file_name().and_then(|name| name.to_str()) else { return false };
    METADATA.contains(&name) || (name.ends_with(".arrow") && (name.starts_with("cache-") || name.starts_with("indices-")))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn write(folder: &Path, files: &[(&str, &str)]) {
        for (name, content) in files {
            let path = folder.join(name);
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(path, content).unwrap();
        }
    }

    #[test]
    fn splits_and_files_come_in_the_order_of_their_descriptions() {
        let folder = tempfile::tempdir().unwrap();
        let state = r#"{"_data_files": [{"filename": "b.arrow"}, {"filename": "a.arrow"}], "_split": "train"}"#;
        write(
            folder.path(),
            &[("dataset_info.json", "{}"), ("state.json", state), ("a.arrow", ""), ("b.arrow", ""), ("cache-1.arrow", "")],
        );
        let files = vec![folder.path().join("b.arrow"), folder.path().join("a.arrow")];
        assert_eq!(saved_splits(folder.path()).unwrap().unwrap(), [SavedSplit { name: Some("train".into()), files }]);
        let whole = tempfile::tempdir().unwrap();
        let state = r#"{"_data_files": [{"filename": "a.arrow"}]}"#;
        let splits = [("dataset_dict.json", r#"{"splits": ["train", "test"]}"#), ("train/state.json", state), ("test/state.json", state)];
        write(whole.path(), &splits);
        write(whole.path(), &[("train/a.arrow", ""), ("test/a.arrow", "")]);
        let names: Vec<_> = saved_splits(whole.path()).unwrap().unwrap().into_iter().map(|split| split.name.unwrap()).collect();
        assert_eq!(names, ["train", "test"]);
        assert_eq!(saved_splits(&whole.path().join("absent")).unwrap(), None);
    }

    #[test]
    fn damaged_descriptions_and_missing_files_are_named() {
        let cases: [(&[(&str, &str)], &str); 6] = [
            (&[("dataset_dict.json", "{")], "dataset_dict.json is not valid"),
            (&[("dataset_dict.json", r#"{"splits": ["train"]}"#)], "train/state.json: copy or save it again"),
            (&[("dataset_dict.json", r#"{"splits": ["../x"]}"#)], "not in its folder"),
            (&[("state.json", r#"{"_data_files": [{"filename": "/etc/passwd"}]}"#), ("dataset_info.json", "")], "not in its folder"),
            (&[("state.json", r#"{"_data_files": [{"filename": "a.arrow"}]}"#), ("dataset_info.json", "")], "lacks its file"),
            (
                &[("state.json", r#"{"_data_files": [], "_indices_data_files": [{"filename": "i"}]}"#), ("dataset_info.json", "")],
                "save it again",
            ),
        ];
        for (files, expected) in cases {
            let folder = tempfile::tempdir().unwrap();
            write(folder.path(), files);
            let message = saved_splits(folder.path()).unwrap_err().to_string();
            assert!(message.contains(expected), "`{message}` should contain `{expected}`");
        }
    }
}
