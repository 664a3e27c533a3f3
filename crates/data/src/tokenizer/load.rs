//! From the files of a model folder to a tokenizer, as `AutoTokenizer.from_pretrained` of transformers 5 does it.
//!
//! There, a class decides. For some ([`Class`]) the normalizer and the pre-tokenizer are the class's own, and `tokenizer.json` gives the
//! vocabulary and what is put around a text; for the others it is taken as it is. Without that file the vocabulary comes from `vocab.json`
//! and `merges.txt`. Added tokens are spread over `tokenizer_config.json`, `special_tokens_map.json`, `added_tokens.json` and
//! `tokenizer.json`. Where two files say different things, one line tells which won.

mod added;
mod class;
mod files;

use std::path::Path;

use serde_json::{Value, json};
use tokenizers::models::ModelWrapper;
use tokenizers::{AddedToken, AddedVocabulary, Encoding, PostProcessor, PostProcessorWrapper, Tokenizer};

use self::added::Settings;
use self::class::Class;
use self::files::Files;
use super::TokenizerError;
use crate::guard::guarded;

/// A tokenizer, and what was found on the way.
pub(super) struct Loaded {
    pub(super) tokenizer: Tokenizer,
    /// One line for every disagreement of two files, which says what won.
    pub(super) notes: Vec<String>,
    /// The special tokens by their words, without `_token`.
    words: Settings,
    files: Files,
}

impl Loaded {
    /// The word of a special token (`bos`, `eos`, `pad`, `unk`), where a file or the class names one.
    pub(super) fn word(&self, name: &str) -> Option<&str> {
        self.words.named(name).map(|token| token.content.as_str()).or_else(|| self.files.mapped_word(name))
    }

    /// The id of a special token in the files that name ids.
    pub(super) fn id(&self, name: &str) -> Option<u32> {
        self.files.named_id(name)
    }

    /// What `tokenizer_config.json` says about a token that is put around a text.
    pub(super) fn flag(&self, name: &str) -> Option<bool> {
        self.files.settings.get(name).and_then(Value::as_bool)
    }
}

/// Loads the tokenizer of a folder.
pub(super) fn load(folder: &Path) -> Result<Loaded, TokenizerError> {
    let files = Files::read(folder)?;
    let main = files.main(folder);
    let loaded = guarded("its words do not fit together", || Ok::<_, String>(assemble(folder, files)));
    loaded.map_err(|problem| TokenizerError::Malformed { path: main, problem })?
}

fn assemble(folder: &Path, files: Files) -> Result<Loaded, TokenizerError> {
    let class = Class::choose(&files);
    let mut notes = Vec::new();
    let (mut tokenizer, is_fast) = match files.fast(folder)? {
        Some(tokenizer) => (tokenizer, true),
        None => (class.of_vocabulary(folder, &files)?, false),
    };
    let fast_added = is_fast.then(|| tokenizer.get_added_tokens_decoder().into_iter().map(|(id, token)| (id.into(), token)).collect());
    let words = Settings::new(&files, class, fast_added);
    let malformed = |problem: tokenizers::Error| TokenizerError::Malformed { path: files.main(folder), problem: problem.to_string() };
    tokenizer.with_truncation(None).map_err(malformed)?;
    tokenizer.with_padding(None);
    if is_fast && class != Class::AsItIs {
        rebuild(&mut tokenizer, class, &words, &files, &mut notes).map_err(malformed)?;
    }
    let from_file = tokenizer.get_post_processor().cloned();
    tokenizer.set_encode_special_tokens(words.flag("split_special_tokens"));
    words.add(&mut tokenizer, class, &mut notes).map_err(malformed)?;
    // The flags count where there is no file to say what is put around a text; one class never looks at that file.
    let has_flags = !is_fast && (files.settings.contains_key("add_bos_token") || files.settings.contains_key("add_eos_token"));
    if has_flags || from_file.is_none() || class == Class::GptNeoX {
        let around = around(&tokenizer, &words, !is_fast).map_err(malformed)?;
        tokenizer.with_post_processor(Some(around));
    }
    if is_fast {
        note_what_is_around(&tokenizer, from_file.as_ref(), class, &words, &files, &mut notes);
    }
    files.note_words(&words, &mut notes);
    Ok(Loaded { tokenizer, notes, words, files })
}

/// Puts the steps of the class in the place of those of `tokenizer.json`.
fn rebuild(tokenizer: &mut Tokenizer, class: Class, words: &Settings, files: &Files, notes: &mut Vec<String>) -> tokenizers::Result<()> {
    let ModelWrapper::BPE(model) = tokenizer.get_model() else {
        notes.push(format!(
            "the model of tokenizer.json is not the BPE that {} needs: tokenizer.json is used as it is",
            files.class_name().unwrap_or_else(|| class.name())
        ));
        return Ok(());
    };
    let mut own = model.clone();
    class.set_model(&mut own, words);
    let steps = class.steps(words);
    let before = [serde_json::to_value(tokenizer.get_normalizer())?, serde_json::to_value(tokenizer.get_pre_tokenizer())?];
    let normalizer: Option<tokenizers::NormalizerWrapper> = serde_json::from_value(steps[0].clone())?;
    let pre_tokenizer: Option<tokenizers::PreTokenizerWrapper> = serde_json::from_value(steps[1].clone())?;
    let after = [serde_json::to_value(&normalizer)?, serde_json::to_value(&pre_tokenizer)?];
    for ((what, before), after) in ["normalizer", "pre-tokenizer"].into_iter().zip(before).zip(after) {
        if comparable(&before) != comparable(&after) {
            notes.push(format!(
                "tokenizer.json has another {what} than {}, the class of this tokenizer: the class wins, as in transformers 5",
                class.name()
            ));
        }
    }
    let added: Vec<AddedToken> = tokenizer.get_added_tokens_decoder().into_values().collect();
    tokenizer.with_model(own);
    tokenizer.with_added_vocabulary(AddedVocabulary::new());
    tokenizer.with_normalizer(normalizer)?;
    tokenizer.with_pre_tokenizer(pre_tokenizer);
    let known = words.added_words();
    let mut lost: Vec<&str> = added.iter().map(|token| token.content.as_str()).filter(|word| !known.contains(word)).collect();
    lost.sort_unstable();
    if !lost.is_empty() {
        let shown: Vec<String> = lost.iter().take(5).map(|word| format!("{word:?}")).collect();
        notes.push(format!(
            "tokenizer.json has {} added tokens that `added_tokens_decoder` of tokenizer_config.json lacks ({}): tokenizer_config.json wins, as in transformers 5",
            lost.len(),
            shown.join(", ")
        ));
    }
    Ok(())
}

/// A step without what does not change tokens.
fn comparable(step: &Value) -> Value {
    let mut step = step.clone();
    if let Some(fields) = step.as_object_mut() {
        fields.remove("trim_offsets");
    }
    step
}

/// What puts BOS before and EOS behind a text, as the flags say.
fn around(tokenizer: &Tokenizer, words: &Settings, has_flags: bool) -> tokenizers::Result<PostProcessorWrapper> {
    let named = |flag: &str, name: &str| {
        let word = words.named(name).filter(|_| has_flags && words.flag(flag))?;
        Some((word.content.clone(), tokenizer.token_to_id(&word.content)?))
    };
    let (bos, eos) = (named("add_bos_token", "bos"), named("add_eos_token", "eos"));
    let special = |found: &Option<(String, u32)>| {
        found.iter().map(|(word, _)| json!({"SpecialToken": {"id": word, "type_id": 0}})).collect::<Vec<_>>()
    };
    let single = [special(&bos), vec![json!({"Sequence": {"id": "A", "type_id": 0}})], special(&eos)].concat();
    let tokens: serde_json::Map<String, Value> =
        bos.iter().chain(&eos).map(|(word, id)| (word.clone(), json!({"id": word, "ids": [id], "tokens": [word]}))).collect();
    let processor = json!({"type": "TemplateProcessing", "single": single, "pair": [{"Sequence": {"id": "A", "type_id": 0}}, {"Sequence": {"id": "B", "type_id": 1}}], "special_tokens": tokens});
    Ok(serde_json::from_value(processor)?)
}

/// Says where a flag and `tokenizer.json` disagree about what is put around a text.
fn note_what_is_around(
    tokenizer: &Tokenizer,
    from_file: Option<&PostProcessorWrapper>,
    class: Class,
    words: &Settings,
    files: &Files,
    notes: &mut Vec<String>,
) {
    let puts = |processor: Option<&PostProcessorWrapper>, name: &str, is_first: bool| {
        let Some(id) = words.named(name).and_then(|word| tokenizer.token_to_id(&word.content)) else { return false };
        let Around { before, behind } = processor.map(Around::of).unwrap_or_default();
        if is_first { before } else { behind }.contains(&id)
    };
    for (flag, name, is_first) in [("add_bos_token", "bos", true), ("add_eos_token", "eos", false)] {
        let (effective, in_file) = (puts(tokenizer.get_post_processor(), name, is_first), puts(from_file, name, is_first));
        let edge = if is_first { "BOS before a text" } else { "EOS behind a text" };
        let puts = if in_file { "puts" } else { "puts no" };
        let asked = files.settings.get(flag).and_then(Value::as_bool);
        if in_file != effective {
            let does = if effective { "does" } else { "does not" };
            let class = class.name();
            notes.push(format!("tokenizer.json {puts} {edge}, but {class} of transformers 5 {does}: the class wins, as there"));
        } else if let Some(asked) = asked.filter(|&asked| asked != effective) {
            notes.push(format!(
                "tokenizer_config.json says `{flag}` is {asked}, but tokenizer.json {puts} {edge}: tokenizer.json wins, as in transformers 5"
            ));
        }
    }
    let prefix = |pre_tokenizer: &Value| pre_tokenizer.get("add_prefix_space").and_then(Value::as_bool);
    let asked = files.settings.get("add_prefix_space").and_then(Value::as_bool);
    let found = serde_json::to_value(tokenizer.get_pre_tokenizer()).ok().as_ref().and_then(prefix);
    if let (Class::AsItIs, Some(asked), Some(found)) = (class, asked, found)
        && asked != found
    {
        notes.push(format!(
            "tokenizer_config.json says `add_prefix_space` is {asked}, but in tokenizer.json it is {found}: tokenizer.json wins, as in transformers 5"
        ));
    }
}

/// The ids that a processor puts around a text.
#[derive(Default)]
struct Around {
    before: Vec<u32>,
    behind: Vec<u32>,
}

impl Around {
    fn of(processor: &PostProcessorWrapper) -> Self {
        // A text of one token that is no other's.
        const OWN: u32 = u32::MAX;
        let text: Encoding = std::iter::once((OWN, String::new(), (0, 0), None, 0)).collect();
        let ids = processor.process(text, None, true).map(|encoding| encoding.get_ids().to_vec()).unwrap_or_default();
        let mut parts = ids.splitn(2, |&id| id == OWN).map(<[u32]>::to_vec);
        Self { before: parts.next().unwrap_or_default(), behind: parts.next().unwrap_or_default() }
    }
}
