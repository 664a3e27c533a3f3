//! Data that mean nothing: random tokens, or random letters. A reference that every network knows nothing of but its own statistics.

use std::ops::RangeInclusive;

use basin_volume_data::random::{below, generator};
use basin_volume_data::text::Documents;
use basin_volume_data::tokens::{ModelLimits, Provenance, TokenSequences};
use basin_volume_models::arch::LanguageModel;

use super::text::{Kept, Tokens};
use crate::error::Error;
use crate::request::DataRequest;

/// Marks the ChaCha keys as belonging to random data.
const TOKENS: &[u8; 24] = b"basin random tokens     ";
const LETTERS: &[u8; 24] = b"basin random letters    ";

const TOKENS_NAME: &str = "random";
const LETTERS_NAME: &str = "random-letters";

/// As many sequences, and tokens or letters of each, as tyche's reference has.
const SEQUENCES: u64 = 50;
const LENGTH: u64 = 50;

/// Random data as they are asked for: `random:64:128:1`, or `random-letters:50:50`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct RandomData {
    /// Letters, which the tokenizer cuts, and not tokens.
    pub is_letters: bool,
    sequences: u64,
    length: u64,
    seed: u64,
}

impl RandomData {
    /// Understands a name; none if it is that of something else.
    ///
    /// # Errors
    /// When the numbers in it are none.
    pub fn parse(data: &str) -> Result<Option<Self>, Error> {
        let mut parts = data.split(':');
        let is_letters = match parts.next() {
            Some(TOKENS_NAME) => false,
            Some(LETTERS_NAME) => true,
            _ => return Ok(None),
        };
        let wrong = || {
            let (name, unit) = if is_letters { (LETTERS_NAME, "LETTERS") } else { (TOKENS_NAME, "TOKENS") };
            Error::usage(format!("`data={data}`: expected {name}:SEQUENCES:{unit}:SEED, whole numbers > 0, such as {name}:64:128"))
        };
        let mut number = |default: u64, allowed: RangeInclusive<u64>| match parts.next() {
            None => Ok(default),
            Some(text) => text.parse().ok().filter(|number| allowed.contains(number)).ok_or_else(wrong),
        };
        let (sequences, length) = (number(SEQUENCES, 1..=10_000_000)?, number(LENGTH, 1..=10_000_000)?);
        let seed = number(0, 0..=u64::MAX)?;
        if parts.next().is_some() {
            return Err(wrong());
        }
        Ok(Some(Self { is_letters, sequences, length, seed }))
    }

    /// Sequences of tokens, every one of the vocabulary as likely; of them as many, and as much of each, as is asked of text.
    ///
    /// # Errors
    /// When they do not fit the model, or more are asked for.
    pub fn tokens(self, data: &str, args: &DataRequest, kept: Kept, model: &LanguageModel) -> Result<Tokens, Error> {
        let first = args.skip.unwrap_or(0) as u64;
        let end = args.val_size.map_or(self.sequences, |count| first.saturating_add(count as u64));
        if first >= end || end > self.sequences {
            return Err(Error::usage(format!(
                "`data={data}` has {} sequences, but those from {first} to {end} are asked for: ask for more, or for a smaller `val_size` or `skip`",
                self.sequences
            )));
        }
        let length = args.max_seq_len.map_or(self.length, |most| self.length.min(most as u64));
        let limits = ModelLimits { vocabulary: model.vocabulary(), positions: Some(model.positions()) };
        if length > model.positions() as u64 || length == 0 {
            return Err(Error::usage(format!(
                "`data={data}`: sequences of {length} tokens, and the model has {} positions: take from 1 to as many",
                model.positions()
            )));
        }
        let sequence = |index: u64| {
            let mut rng = generator(TOKENS, self.seed, index);
            (0..length).map(|_| below(&mut rng, limits.vocabulary as u64) as u32).collect()
        };
        let sequences = TokenSequences::new(data, (first..end).map(sequence), limits, kept.pad, kept.positions, Provenance::Ids)?;
        Ok(Tokens { name: data.to_owned(), sequences, origin: None, choice: None, tokenizer: None, tokens_in_all: None })
    }

    /// Documents of lower-case letters.
    pub fn documents(self, data: &str) -> Documents {
        let document = move |index: u64| {
            let mut rng = generator(LETTERS, self.seed, index);
            (0..self.length).map(|_| char::from(b'a' + below(&mut rng, 26) as u8)).collect::<String>()
        };
        Documents::of_texts(data, (0..self.sequences).map(document))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_say_how_much() {
        let of = |data: &str| RandomData::parse(data);
        assert_eq!(of("wiki.txt").unwrap(), None);
        assert_eq!(of("random").unwrap(), Some(RandomData { is_letters: false, sequences: 50, length: 50, seed: 0 }));
        assert_eq!(of("random-letters:3:7:9").unwrap(), Some(RandomData { is_letters: true, sequences: 3, length: 7, seed: 9 }));
        for wrong in ["random:0", "random:x", "random:3:", "random:1:2:3:4", "random-letters:1:-2"] {
            let error = of(wrong).unwrap_err().to_string();
            assert!(error.contains(wrong) && error.contains(":SEED"), "{error}");
        }
        let texts: Vec<String> = of("random-letters:3:7").unwrap().unwrap().documents("x").map(Result::unwrap).collect();
        assert!(texts.len() == 3 && texts[0] != texts[1] && texts.iter().all(|text| text.len() == 7), "{texts:?}");
    }
}
