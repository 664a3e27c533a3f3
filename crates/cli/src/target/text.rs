//! Token sequences for a language model: from text, or from a file of ids.

use std::fs::File;
use std::io::{BufReader, Read};
use std::path::{Path, PathBuf};
use std::sync::atomic::AtomicBool;

use anyhow::anyhow;
use basin_volume_data::text::{DEFAULT_TEXT_KEY, Documents, is_text_file};
use basin_volume_data::tokenizer::{SpecialTokenOverrides, TextTokenizer};
use basin_volume_data::tokens::{
    self, ModelLimits, Positions, ReadSettings, Reading, SequenceCount, TokenSequences, read_documents, read_json,
};
use basin_volume_models::arch::LanguageModel;

use super::Model;
use super::data::file_name;
use super::hub::{self, Origin};
use super::split::{self, Choice};
use crate::args::DataArgs;
use crate::error::CommandError;

/// How data for a language model is given.
pub const EXAMPLE: &str = "give a file or folder of .jsonl, .csv, .parquet or .txt, a data set of the hub, or a .json file of token ids, for instance --data EleutherAI/lambada_openai";

/// Sequences and where they came from.
pub struct Tokens {
    /// Short name for titles and manifests.
    pub name: String,
    pub sequences: TokenSequences,
    /// The data set of the hub, if it is one.
    pub origin: Option<Origin>,
    /// What was chosen of a data set.
    pub choice: Option<Choice>,
    /// The folder of the tokenizer; none for ids.
    pub tokenizer: Option<PathBuf>,
}

/// Where text is.
struct Source {
    name: String,
    documents: Documents,
    origin: Option<Origin>,
    choice: Option<Choice>,
}

/// Resolves DATA for a language model. `kept` are the pad token asked for and the positions that count.
pub fn resolve(
    data: &str,
    args: &DataArgs,
    kept: (Option<u32>, Positions),
    model: &Model,
    language_model: &LanguageModel,
    interrupt: &AtomicBool,
) -> Result<Tokens, CommandError> {
    let limits = ModelLimits { vocabulary: language_model.vocabulary(), positions: Some(language_model.positions()) };
    if args.eos_token_id.is_some() && !args.chunk {
        return Err(CommandError::usage("--eos-token-id joins the documents of --chunk: give both or none"));
    }
    for (flag, id) in [("--pad-token-id", kept.0), ("--eos-token-id", args.eos_token_id)] {
        if let Some(id) = id.filter(|&id| id as usize >= limits.vocabulary) {
            let vocabulary = limits.vocabulary;
            return Err(CommandError::usage(format!("{flag} is {id}, outside the vocabulary 0..{vocabulary} of {}", model.name)));
        }
    }
    let path = Path::new(data);
    if path.exists() {
        if let Some(flag) = args.dataset_flags().first().filter(|_| !path.is_dir()) {
            return Err(CommandError::usage(format!("{flag} chooses files of a data set, but --data {data} is one file: leave it out")));
        }
        if is_ids(path) {
            if let Some(flag) = args.text_flags().first() {
                return Err(CommandError::usage(format!("{flag} is for text, but --data {data} holds token ids: leave it out")));
            }
            return ids(path, kept, language_model);
        }
    }
    let settings = read_settings(args, kept.1, language_model);
    // What is missing is said before the tokenizer is looked for.
    let Source { name, documents, origin, choice } = source(data, args, interrupt)?;
    let tokenizer = tokenizer(args, kept.0, model, interrupt)?;
    let sequences = read_documents(documents, &tokenizer, settings, limits).map_err(|error| match error {
        tokens::TokensError::Setting { .. } => CommandError::usage(error.to_string()),
        error => error.into(),
    })?;
    Ok(Tokens { name, sequences, origin, choice, tokenizer: Some(tokenizer.folder().to_owned()) })
}

/// Sequences of a file of ids.
pub fn ids(path: &Path, kept: (Option<u32>, Positions), language_model: &LanguageModel) -> Result<Tokens, CommandError> {
    let limits = ModelLimits { vocabulary: language_model.vocabulary(), positions: Some(language_model.positions()) };
    let sequences = read_json(path, limits, kept.0, kept.1).map_err(|error| match error {
        // Nothing can be cut here: the flag that the message for text names would be refused.
        tokens::TokensError::TooLong { name, sequence, length, positions } => {
            anyhow!("sequence {sequence} of {name} has {length} tokens, more than the model's {positions} positions: cut it shorter")
        }
        other => other.into(),
    })?;
    Ok(Tokens { name: file_name(path), sequences, origin: None, choice: None, tokenizer: None })
}

/// Whether a file holds lists of ids: a .json file whose outermost value is a list. One object a line is text.
fn is_ids(path: &Path) -> bool {
    if !path.extension().is_some_and(|extension| extension.eq_ignore_ascii_case("json")) {
        return false;
    }
    let Ok(file) = File::open(path) else { return false };
    let bytes = BufReader::new(file).bytes().map_while(Result::ok);
    let mut content = bytes.skip_while(|byte| byte.is_ascii_whitespace() || [0xef, 0xbb, 0xbf].contains(byte));
    content.next() == Some(b'[')
}

fn read_settings(args: &DataArgs, positions: Positions, language_model: &LanguageModel) -> ReadSettings {
    let default = ReadSettings::default();
    let (SequenceCount::AtMost(most) | SequenceCount::Exactly(most)) = default.count;
    ReadSettings {
        reading: if args.chunk { Reading::Chunks } else { Reading::Documents },
        max_seq_len: args.max_seq_len.unwrap_or_else(|| default.max_seq_len.min(language_model.positions())),
        count: args.val_size.map_or(SequenceCount::AtMost(most), SequenceCount::Exactly),
        skip: args.skip.unwrap_or(default.skip),
        positions,
    }
}

/// The tokenizer asked for, else that of the model's own folder.
fn tokenizer(args: &DataArgs, pad: Option<u32>, model: &Model, interrupt: &AtomicBool) -> Result<TextTokenizer, CommandError> {
    let overrides = SpecialTokenOverrides { pad, eos: args.eos_token_id };
    let folder = match args.tokenizer.as_deref() {
        None if model.checkpoint.folder.is_dir() => model.checkpoint.folder.clone(),
        None => {
            return Err(CommandError::usage(format!(
                "the tokenizer of {} is not known, because a .gguf file has none that this program reads: set --tokenizer to the folder or the hub id of the model that it was made of",
                model.checkpoint.folder.display()
            )));
        }
        Some(text) => tokenizer_folder(text, interrupt)?,
    };
    Ok(TextTokenizer::load(&folder, overrides)?)
}

fn tokenizer_folder(text: &str, interrupt: &AtomicBool) -> Result<PathBuf, CommandError> {
    let path = Path::new(text);
    if path.is_dir() {
        return Ok(path.to_owned());
    }
    if path.is_file() && path.file_name().is_some_and(|name| name == "tokenizer.json") {
        let parent = path.parent().filter(|parent| !parent.as_os_str().is_empty());
        return Ok(parent.unwrap_or(Path::new(".")).to_owned());
    }
    match hub::model_id(text) {
        Some(id) if !path.exists() => Ok(hub::tokenizer(text, &id, interrupt)?),
        _ => Err(CommandError::usage(format!(
            "there is no tokenizer '{text}': expected a folder with a tokenizer.json, or a model of the hub as owner/name"
        ))),
    }
}

fn source(data: &str, args: &DataArgs, interrupt: &AtomicBool) -> Result<Source, CommandError> {
    let text_key = args.text_key.as_deref().unwrap_or(DEFAULT_TEXT_KEY);
    let path = Path::new(data);
    if path.is_dir() {
        // A copy of a data set of the hub: its files may be in folders, one for each configuration.
        let names = parquet_below(path);
        if !args.dataset_flags().is_empty() || (!names.is_empty() && !has_text_files(path)) {
            let choice = split::choose(data, &names, &args.data_config, &args.split)?;
            let files = choice.names.iter().map(|name| path.join(name)).collect();
            let documents = Documents::of_files(path, files, text_key)?;
            return Ok(Source { name: file_name(path), documents, origin: None, choice: Some(choice) });
        }
    }
    if path.exists() {
        return Ok(Source { name: file_name(path), documents: Documents::open(path, text_key)?, origin: None, choice: None });
    }
    if hub::id(data).is_none() {
        return Err(CommandError::usage(format!("there is no data '{data}': {EXAMPLE}")));
    }
    let (files, choice, origin) = hub::dataset(data, &args.data_config, &args.split, interrupt)?;
    let documents = Documents::of_files(path, files, text_key)?;
    Ok(Source { name: hub::short_name(data), documents, origin: Some(origin), choice: Some(choice) })
}

/// Whether a folder itself holds files of text.
fn has_text_files(folder: &Path) -> bool {
    folder.read_dir().is_ok_and(|entries| entries.flatten().any(|entry| is_text_file(&entry.path()) && entry.path().is_file()))
}

/// The parquet files below a folder, by their sorted names in it. Hidden folders and links to folders are not entered.
fn parquet_below(folder: &Path) -> Vec<String> {
    fn collect(folder: &Path, prefix: &str, names: &mut Vec<String>) {
        for entry in folder.read_dir().into_iter().flatten().flatten() {
            let name = entry.file_name().to_string_lossy().into_owned();
            if name.starts_with('.') {
                continue;
            }
            if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
                collect(&entry.path(), &format!("{prefix}{name}/"), names);
            } else if name.ends_with(".parquet") && entry.path().is_file() {
                names.push(format!("{prefix}{name}"));
            }
        }
    }
    let mut names = Vec::new();
    collect(folder, "", &mut names);
    names.sort();
    names
}
