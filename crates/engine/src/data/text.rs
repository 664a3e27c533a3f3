//! Token sequences for a language model: from text, or from a file of ids.

use std::path::{Path, PathBuf};

use basin_volume::estimator::radial::PartNote;
use basin_volume_data::text::{DEFAULT_TEXT_KEY, Documents, SavedSplit, is_text_file, saved_splits};
use basin_volume_data::tokenizer::{SpecialTokenOverrides, TextTokenizer};
use basin_volume_data::tokens::{
    ModelLimits, Positions, Provenance, ReadSettings, Reading, SequenceCount, TokenSequence, TokenSequences, TokensError, is_token_file,
    read_documents_within, read_json,
};
use basin_volume_models::arch::LanguageModel;

use super::file_name;
use super::random::RandomData;
use super::split::{self, Choice};
use super::tasks::Task;
use crate::error::Error;
use crate::hub::{self, Origin};
use crate::model::Model;
use crate::numbers::grouped;
use crate::request::DataRequest;
use crate::session::Session;

/// How data for a language model is given.
pub(crate) const EXAMPLE: &str = "give a file or folder of .jsonl, .csv, .parquet or .txt, a data set of the hub, a .json file of token ids, the name of a task (`basin-volume data list`), or random:SEQUENCES:TOKENS, for instance `data=EleutherAI/lambada_openai`";

/// Sequences and where they came from.
#[derive(Debug)]
pub struct Tokens {
    /// Short name for titles and manifests.
    pub name: String,
    /// The sequences.
    pub sequences: TokenSequences,
    /// The data set of the hub, if it is one.
    pub origin: Option<Origin>,
    /// What was chosen of a data set.
    pub choice: Option<Choice>,
    /// The folder of the tokenizer; none for ids.
    pub tokenizer: Option<PathBuf>,
    /// About how many tokens the whole text has, where it is plain text.
    pub tokens_in_all: Option<u64>,
}

/// Characters of a sequence's text that are kept for tables.
const SHOWN: usize = 80;

/// Tokens that are turned back for them.
const DECODED: usize = 64;

impl Tokens {
    /// What the sequences are, for tables: their lengths, and how their texts begin where there is a tokenizer.
    #[must_use]
    pub fn parts(&self) -> Vec<PartNote> {
        let tokenizer = self.tokenizer.as_deref().and_then(|folder| TextTokenizer::load(folder, SpecialTokenOverrides::default()).ok());
        let note = |sequence: TokenSequence<'_>| {
            let beginning = &sequence.ids[..sequence.ids.len().min(DECODED)];
            let text = tokenizer.as_ref().and_then(|tokenizer| tokenizer.text(beginning));
            PartNote { tokens: sequence.ids.len(), text: text.map(|text| text.chars().take(SHOWN).collect()) }
        };
        self.sequences.iter().map(note).collect()
    }

    /// How many sequences and tokens count of how many there are, in a line.
    #[must_use]
    pub fn words(&self) -> String {
        let Self { name, sequences, tokens_in_all, .. } = self;
        let (count, tokens, kept) = (sequences.count(), sequences.ids().len(), sequences.kept_count());
        let counting = if kept == tokens {
            format!("all {} tokens", grouped(tokens))
        } else {
            format!("{} of {} tokens", grouped(kept), grouped(tokens))
        };
        let Provenance::Text(report) = sequences.provenance() else {
            return format!("Data: {} of {name}; {counting} count.", counted(count, "sequence"));
        };
        let length = report.settings.max_seq_len;
        if let (Reading::Chunks, Some(all)) = (report.settings.reading, tokens_in_all) {
            return format!(
                "Data: {} of {length} tokens of {name}, of about {} tokens in all; {counting} count (`val_size` takes more chunks).",
                counted(count, "chunk"),
                grouped(*all)
            );
        }
        let documents = counted(report.documents, "document");
        let mut words = match report.settings.reading {
            Reading::Chunks => format!("Data: {} of {length} tokens from {documents} of {name}", counted(count, "chunk")),
            Reading::Documents => format!("Data: {} from {documents} of {name}", counted(count, "sequence")),
        };
        if report.cut_documents > 0 {
            words += &format!(", {} cut at {length} tokens", grouped(report.cut_documents));
            if let Some(all) = tokens_in_all {
                words += &format!(" of about {} in all", grouped(*all));
            }
        }
        words += &format!("; {counting} count");
        words + if report.more_documents { " (more documents are left: `val_size` takes more)." } else { "." }
    }
}

/// So many of something.
fn counted(count: usize, noun: &str) -> String {
    format!("{} {noun}{}", grouped(count), if count == 1 { "" } else { "s" })
}

/// Which positions count: not those whose input token is the pad token, if one is asked for.
#[derive(Debug, Clone, Copy, Default)]
pub struct Kept {
    /// The pad token asked for.
    pub pad: Option<u32>,
    /// All the others, or the last of every sequence.
    pub positions: Positions,
}

/// Where text is.
struct Source {
    name: String,
    documents: Documents,
    origin: Option<Origin>,
    choice: Option<Choice>,
}

/// Resolves data for a language model.
///
/// # Errors
/// When there are none, or they do not fit the model.
pub fn resolve(
    data: &str,
    args: &DataRequest,
    kept: Kept,
    model: &Model,
    language_model: &LanguageModel,
    session: &Session,
) -> Result<Tokens, Error> {
    let limits = ModelLimits { vocabulary: language_model.vocabulary(), positions: Some(language_model.positions()) };
    for (setting, id) in [("pad_token_id", kept.pad), ("eos_token_id", args.eos_token_id)] {
        if let Some(id) = id.filter(|&id| id as usize >= limits.vocabulary) {
            let vocabulary = limits.vocabulary;
            return Err(Error::usage(format!("`{setting}` is {id}, outside the vocabulary 0..{vocabulary} of {}", model.name)));
        }
    }
    let path = Path::new(data);
    if path.exists() {
        if let Some(setting) = args.dataset_settings().first().filter(|_| !path.is_dir()) {
            return Err(Error::usage(format!("`{setting}` chooses files of a data set, but `data={data}` is one file: leave it out")));
        }
        if is_token_file(path) {
            if let Some(setting) = args.text_settings().first() {
                return Err(Error::usage(format!("`{setting}` is for text, but `data={data}` holds token ids: leave it out")));
            }
            return ids(path, kept, language_model);
        }
    }
    let random = if path.exists() { None } else { RandomData::parse(data)? };
    if let Some(random) = random {
        if let Some(setting) = args.dataset_settings().first() {
            return Err(Error::usage(format!("`{setting}` chooses files of a data set, but `data={data}` are random: leave it out")));
        }
        if !random.is_letters {
            return random.tokens(data, args, kept, language_model);
        }
    }
    // What is missing is said before the tokenizer is looked for.
    let Source { name, documents, origin, choice } = source(data, args, session)?;
    let plain_bytes = documents.plain_bytes();
    if args.eos_token_id.is_some() && !args.chunk.unwrap_or(plain_bytes.is_some()) {
        return Err(Error::usage("`eos_token_id` joins the documents of `chunk`: give both or none"));
    }
    let tokenizer = tokenizer(args, kept.pad, model, session)?;
    // Where two of its files disagree, whoever asks is told which counts.
    tokenizer.notes().iter().for_each(|note| session.note(note));
    let read = |documents: Documents, chunk: bool| {
        let settings = read_settings(args, chunk, kept.positions, language_model);
        read_documents_within(documents, &tokenizer, settings, limits, Some(session.allowed()))
    };
    let sequences = match read(documents, args.chunk.unwrap_or(plain_bytes.is_some())) {
        // Nobody asked for chunks: what is too short for them is taken as it is.
        Err(TokensError::TooShort { .. } | TokensError::TooFew { .. } | TokensError::NoEos { .. })
            if args.chunk.is_none() && plain_bytes.is_some() =>
        {
            read(source(data, args, session)?.documents, false)?
        }
        found => found?,
    };
    let tokens_in_all = plain_bytes.map(|bytes| {
        let taken = tokenizer.text_bytes(sequences.ids()).max(1);
        (bytes as f64 * sequences.ids().len() as f64 / taken as f64).max(sequences.ids().len() as f64) as u64
    });
    Ok(Tokens { name, sequences, origin, choice, tokenizer: Some(tokenizer.folder().to_owned()), tokens_in_all })
}

/// Sequences of a file of ids.
///
/// # Errors
/// When it cannot be read, or does not fit the model.
pub fn ids(path: &Path, kept: Kept, language_model: &LanguageModel) -> Result<Tokens, Error> {
    let limits = ModelLimits { vocabulary: language_model.vocabulary(), positions: Some(language_model.positions()) };
    let sequences = read_json(path, limits, kept.pad, kept.positions).map_err(|error| match error {
        // Nothing can be cut here: the flag that the message for text names would be refused.
        TokensError::TooLong { name, sequence, length, positions } => Error::failed(format!(
            "sequence {sequence} of {name} has {length} tokens, more than the model's {positions} positions: cut it shorter"
        )),
        other => other.into(),
    })?;
    Ok(Tokens { name: file_name(path), sequences, origin: None, choice: None, tokenizer: None, tokens_in_all: None })
}

fn read_settings(args: &DataRequest, chunk: bool, positions: Positions, language_model: &LanguageModel) -> ReadSettings {
    let default = ReadSettings::default();
    let (SequenceCount::AtMost(most) | SequenceCount::Exactly(most)) = default.count;
    ReadSettings {
        reading: if chunk { Reading::Chunks } else { Reading::Documents },
        max_seq_len: args.max_seq_len.unwrap_or_else(|| default.max_seq_len.min(language_model.positions())),
        count: args.val_size.map_or(SequenceCount::AtMost(most), SequenceCount::Exactly),
        skip: args.skip.unwrap_or(default.skip),
        positions,
    }
}

/// The tokenizer asked for, else that of the model's own folder.
fn tokenizer(args: &DataRequest, pad: Option<u32>, model: &Model, session: &Session) -> Result<TextTokenizer, Error> {
    let overrides = SpecialTokenOverrides { pad, eos: args.eos_token_id };
    let folder = match args.tokenizer.as_deref() {
        None if model.checkpoint.tokenizer_folder().is_dir() => model.checkpoint.tokenizer_folder().to_owned(),
        None => {
            return Err(Error::usage(format!(
                "the tokenizer of {} is not known, because a .gguf file has none that this program reads: set `tokenizer` to the folder or the hub id of the model that it was made of",
                model.checkpoint.tokenizer_folder().display()
            )));
        }
        Some(text) => tokenizer_folder(text, session)?,
    };
    Ok(TextTokenizer::load(&folder, overrides)?)
}

fn tokenizer_folder(text: &str, session: &Session) -> Result<PathBuf, Error> {
    let path = Path::new(text);
    if path.is_dir() {
        return Ok(path.to_owned());
    }
    if path.is_file() && path.file_name().is_some_and(|name| name == "tokenizer.json") {
        let parent = path.parent().filter(|parent| !parent.as_os_str().is_empty());
        return Ok(parent.unwrap_or(Path::new(".")).to_owned());
    }
    match hub::model_id(text) {
        Some(id) if !path.exists() => Ok(hub::tokenizer(text, &id, session)?),
        _ => Err(Error::usage(format!(
            "there is no tokenizer '{text}': expected a folder with a tokenizer.json, or a model of the hub as owner/name"
        ))),
    }
}

fn source(data: &str, args: &DataRequest, session: &Session) -> Result<Source, Error> {
    let text_key = args.text_key.as_deref().unwrap_or(DEFAULT_TEXT_KEY);
    let path = Path::new(data);
    if let Some(random) = if path.exists() { None } else { RandomData::parse(data)? } {
        return Ok(Source { name: data.to_owned(), documents: random.documents(data), origin: None, choice: None });
    }
    if let Some(task) = Task::named(data).filter(|_| !path.exists()) {
        return source(task.id, &task.request(args), session);
    }
    if path.is_dir() {
        if let Some(splits) = saved_splits(path)? {
            return saved(data, &splits, args, text_key);
        }
        // A copy of a data set of the hub: its files may be in folders, one for each configuration.
        let names = parquet_below(path);
        if !args.dataset_settings().is_empty() || (!names.is_empty() && !has_text_files(path)) {
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
        return Err(Error::usage(format!("there is no data '{data}': {EXAMPLE}")));
    }
    let hub::DataFiles { files, choice, origin } = hub::dataset(data, &args.data_config, &args.split, session)?;
    let documents = Documents::of_files(path, files, text_key)?;
    Ok(Source { name: hub::short_name(data), documents, origin: Some(origin), choice: Some(choice) })
}

/// A folder of `save_to_disk`: one data set, or one for each split.
fn saved(data: &str, splits: &[SavedSplit], args: &DataRequest, text_key: &str) -> Result<Source, Error> {
    if !args.data_config.is_empty() {
        return Err(Error::usage(format!("`data={data}` was made by save_to_disk and has no configurations: leave `data_config` out")));
    }
    let names: Vec<String> = splits.iter().filter_map(|split| split.name.clone()).collect();
    let (files, choice) = if names.is_empty() && args.split.is_empty() {
        (splits.iter().flat_map(|split| split.files.clone()).collect(), None)
    } else if names.is_empty() {
        return Err(Error::usage(format!("`data={data}` is a single split of a data set: leave `split` out")));
    } else {
        let chosen = split::pick(data, "split", "splits", &names, &args.split, None)?;
        let is_chosen = |name: &String| splits.iter().find(|split| split.name.as_ref() == Some(name));
        let files: Vec<PathBuf> = chosen.iter().filter_map(is_chosen).flat_map(|split| split.files.clone()).collect();
        let names = files.iter().map(|file| file.strip_prefix(data).unwrap_or(file).display().to_string()).collect();
        (files, Some(Choice { configs: Vec::new(), splits: chosen, names }))
    };
    let path = Path::new(data);
    Ok(Source { name: file_name(path), documents: Documents::of_files(path, files, text_key)?, origin: None, choice })
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
