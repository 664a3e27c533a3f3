//! Special and other added tokens: which there are, how they are looked for, and in what order they get their ids.

use std::collections::{BTreeMap, HashSet};

use serde_json::{Map, Value};
use tokenizers::{AddedToken, Tokenizer};

use super::class::Class;
use super::files::Files;

/// The special tokens that every tokenizer may have.
const NAMES: [&str; 7] = ["bos_token", "eos_token", "unk_token", "sep_token", "pad_token", "cls_token", "mask_token"];

/// What a tokenizer is made with: the settings of its files, with the class's own where they say nothing.
pub(in crate::tokenizer) struct Settings {
    values: Map<String, Value>,
    /// Special tokens by name, in the order in which they are added.
    named: Vec<(String, AddedToken)>,
    extra: Vec<AddedToken>,
    /// Added tokens by the ids that the files give them.
    decoder: BTreeMap<u64, AddedToken>,
}

/// A token that is given as a text, or as an object with `content`. `special` holds where the object does not say.
pub(super) fn token(value: &Value, special: bool) -> Option<AddedToken> {
    if let Some(text) = value.as_str() {
        return Some(AddedToken::from(text, special));
    }
    let flag = |name: &str| value.get(name).and_then(Value::as_bool);
    let special = flag("special").unwrap_or(special);
    Some(AddedToken {
        content: value.get("content")?.as_str()?.to_owned(),
        single_word: flag("single_word").unwrap_or(false),
        lstrip: flag("lstrip").unwrap_or(false),
        rstrip: flag("rstrip").unwrap_or(false),
        normalized: flag("normalized").unwrap_or(!special),
        special,
    })
}

/// A list of tokens; anything else is none.
fn tokens(value: Option<&Value>) -> Vec<AddedToken> {
    value.and_then(Value::as_array).into_iter().flatten().filter_map(|value| token(value, true)).collect()
}

/// Whether a value counts as nothing, as in Python.
fn is_nothing(value: Option<&Value>) -> bool {
    match value {
        None | Some(Value::Null) => true,
        Some(Value::Array(items)) => items.is_empty(),
        Some(Value::Object(fields)) => fields.is_empty(),
        _ => false,
    }
}

impl Settings {
    /// Gathers the settings. `fast` are the added tokens of `tokenizer.json`, if there is that file.
    pub(super) fn new(files: &Files, class: Class, fast: Option<BTreeMap<u64, AddedToken>>) -> Self {
        let mut values = files.settings.clone();
        if fast.is_some() {
            values.remove("add_bos_token");
            values.remove("add_eos_token");
        }
        if is_nothing(values.get("extra_special_tokens"))
            && let Some(tokens) = values.remove("additional_special_tokens")
        {
            values.insert("extra_special_tokens".to_owned(), tokens);
        }
        let mut decoder = BTreeMap::new();
        match values.get("added_tokens_decoder").and_then(Value::as_object) {
            Some(entries) => {
                for (id, value) in entries {
                    if let (Ok(id), Some(token)) = (id.parse(), token(value, false)) {
                        decoder.insert(id, token);
                    }
                }
            }
            None => {
                for (key, value) in &files.map {
                    let mut value = value.clone();
                    if key == "extra_special_tokens"
                        && let (Value::Array(new), Some(Value::Array(old))) = (&value, values.get(key))
                    {
                        value = Value::Array(old.iter().chain(new.iter().filter(|token| !old.contains(token))).cloned().collect());
                    }
                    values.insert(key.clone(), value);
                }
                let named = NAMES.iter().filter_map(|name| token(values.get(*name)?, true));
                let special: Vec<String> = named.chain(tokens(values.get("extra_special_tokens"))).map(|token| token.content).collect();
                for (word, id) in &files.added {
                    if let Some(id) = id.as_u64() {
                        decoder.insert(id, AddedToken::from(word, special.contains(word)));
                    }
                }
                decoder.extend(fast.into_iter().flatten());
            }
        }
        // A setting that the files have, and be it null, hides the class's.
        for (name, word) in class.words() {
            values.entry(*name).or_insert_with(|| Value::from(*word));
        }
        let mut named: Vec<(String, AddedToken)> = Vec::new();
        for name in NAMES {
            if let Some(token) = values.get(name).and_then(|value| token(value, true)) {
                let same = decoder.values().find(|own| own.content == token.content).cloned();
                named.push((name.to_owned(), same.unwrap_or(token)));
            }
        }
        // Further names ending in `_token`, and those of a table of extra tokens.
        for (name, value) in &values {
            if name.ends_with("_token")
                && !NAMES.contains(&name.as_str())
                && let Some(token) = token(value, true)
            {
                named.push((name.clone(), token));
            }
        }
        let extra = values.get("extra_special_tokens");
        for (name, value) in extra.and_then(Value::as_object).into_iter().flatten() {
            if let Some(token) = token(value, true) {
                named.push((name.clone(), token));
            }
        }
        let extra = if is_nothing(extra) { tokens(values.get("additional_special_tokens")) } else { tokens(extra) };
        Self { values, named, extra, decoder }
    }

    /// The token of this name, without `_token`.
    pub(super) fn named(&self, name: &str) -> Option<&AddedToken> {
        self.named.iter().find(|(own, _)| own.strip_suffix("_token") == Some(name)).map(|(_, token)| token)
    }

    /// Whether a setting is on; most are off by default.
    pub(super) fn flag(&self, name: &str) -> bool {
        self.values.get(name).and_then(Value::as_bool).unwrap_or(false)
    }

    /// A setting that may be neither on nor off.
    pub(super) fn maybe(&self, name: &str) -> Option<bool> {
        self.values.get(name).and_then(Value::as_bool)
    }

    /// The words of all tokens that are added.
    pub(super) fn added_words(&self) -> HashSet<&str> {
        let named = self.named.iter().map(|(_, token)| token);
        self.decoder.values().chain(named).chain(&self.extra).map(|token| token.content.as_str()).collect()
    }

    /// Adds the tokens that the tokenizer lacks, or has with other properties: those with ids in the order of these, then the named ones,
    /// then the others. What the vocabulary has keeps its id, and the rest is numbered from its end on.
    pub(super) fn add(&self, tokenizer: &mut Tokenizer, class: Class, notes: &mut Vec<String>) -> tokenizers::Result<()> {
        let present: HashSet<AddedToken> = tokenizer.get_added_tokens_decoder().into_values().collect();
        let mut new: Vec<AddedToken> = self.decoder.values().filter(|token| !present.contains(token)).cloned().collect();
        let mut known: HashSet<String> = present.iter().chain(&new).map(|token| token.content.clone()).collect();
        for token in self.named.iter().map(|(_, token)| token).chain(&self.extra) {
            if known.insert(token.content.clone()) {
                new.push(token.clone());
            }
        }
        let named: HashSet<&str> = self.named.iter().map(|(_, token)| token.content.as_str()).collect();
        for token in &mut new {
            token.special |= named.contains(token.content.as_str());
        }
        tokenizer.add_tokens(new)?;
        if class == Class::Qwen2 {
            let again = self.named.iter().map(|(_, token)| token).chain(&self.extra);
            tokenizer.add_tokens(again.map(|token| AddedToken::from(token.content.as_str(), true)))?;
        }
        let elsewhere = |(id, token): (&u64, &AddedToken)| {
            let own = tokenizer.token_to_id(&token.content).filter(|own| u64::from(*own) != *id)?;
            Some(format!(
                "the files give the token {:?} the id {id}, but it is {own} in this vocabulary, as in transformers 5",
                token.content
            ))
        };
        notes.extend(self.decoder.iter().filter_map(elsewhere).take(3));
        Ok(())
    }
}
