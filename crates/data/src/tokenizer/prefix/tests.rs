//! The first tokens of a text are those of the whole text, cut: at every number of tokens, for tokenizers of every kind and texts that are
//! made to break them.

use serde_json::{Value, json};
use tokenizers::models::TrainerWrapper;
use tokenizers::models::bpe::{BPE, BpeTrainer};
use tokenizers::models::unigram::{Unigram, UnigramTrainer};
use tokenizers::models::wordpiece::{WordPiece, WordPieceTrainer};
use tokenizers::{AddedToken, ModelWrapper, Tokenizer};

use super::*;

/// What texts are made of.
const PIECES: [&str; 44] = [
    "the ",
    "quick",
    " brown",
    " fox's",
    " don't",
    " we'll",
    "\n",
    "\r\n",
    "  ",
    "   ",
    "\t",
    " ",
    "1",
    "234",
    " 56,789",
    "3.14",
    ".",
    ", ",
    "...",
    "'",
    "\"",
    "(",
    " )",
    "-",
    "é",
    "e\u{301}",
    "o\u{308}\u{323}",
    "ﬁ",
    "Å",
    "東京",
    "，",
    "。",
    "かか\u{3099}",
    "한국",
    "\u{1112}\u{1161}\u{11ab}",
    "🙂",
    "👩\u{200d}🔬",
    "<|sep|>",
    " <s> ",
    "[MASK]",
    "aaaaaaaa",
    "\u{200b}",
    "\u{a0}",
    "▁",
];

const CORPUS: &str =
    "the quick brown fox jumps over the lazy dog's back and we'll see 1234 foxes, 56 dogs... don't they\n\nnew  lines   here";

struct Noise(u64);

impl Noise {
    fn below(&mut self, bound: usize) -> usize {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        ((self.0 >> 33) % bound as u64) as usize
    }
}

fn texts() -> Vec<String> {
    let mut noise = Noise(3);
    let mut texts: Vec<String> = (0..6).map(|_| (0..250).map(|_| PIECES[noise.below(PIECES.len())]).collect()).collect();
    // Without spaces, with few of them, and of runs.
    texts.push((0..300).map(|_| ["東", "京", "字", "，", "。", "1", "한"][noise.below(7)]).collect());
    texts.push("a".repeat(700) + &" ".repeat(300) + "b" + &"\n".repeat(200) + &"ab".repeat(100));
    texts.push("the quick brown fox. ".repeat(60));
    texts
}

enum Kind {
    Bpe { byte_fallback: bool, ignore_merges: bool },
    WordPiece,
    Unigram,
}

struct Case {
    name: &'static str,
    normalizer: Value,
    pre_tokenizer: Value,
    kind: Kind,
    added: Vec<AddedToken>,
    /// Whether a long text of words is cut, and needs little memory.
    cuts: bool,
}

const PLAIN: Kind = Kind::Bpe { byte_fallback: false, ignore_merges: false };

fn case(name: &'static str, normalizer: Value, pre_tokenizer: Value, kind: Kind) -> Case {
    Case { name, normalizer, pre_tokenizer, kind, added: vec![AddedToken::from("<|sep|>", true)], cuts: true }
}

fn byte_level(regex: bool) -> Value {
    json!({"type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true, "use_regex": regex})
}

fn split(expression: &str, behavior: &str, invert: bool) -> Value {
    json!({"type": "Split", "pattern": {"Regex": expression}, "behavior": behavior, "invert": invert})
}

fn sequence(parts: &[Value]) -> Value {
    json!({"type": "Sequence", "pretokenizers": parts})
}

fn metaspace(scheme: &str, split: bool) -> Value {
    json!({"type": "Metaspace", "replacement": "▁", "prepend_scheme": scheme, "split": split})
}

const LLAMA3: &str = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+";

fn cases() -> Vec<Case> {
    let space = json!({"type": "Replace", "pattern": {"String": " "}, "content": "▁"});
    let bert =
        json!({"type": "BertNormalizer", "clean_text": true, "handle_chinese_chars": true, "strip_accents": null, "lowercase": true});
    let t5 = json!({"type": "Sequence", "normalizers": [
        {"type": "Replace", "pattern": {"Regex": " {2,}"}, "content": "▁"}, {"type": "Strip", "strip_left": true, "strip_right": true}]});
    let legacy = json!({"type": "Sequence", "normalizers": [{"type": "Prepend", "prepend": "▁"}, space]});
    let fallback = || Kind::Bpe { byte_fallback: true, ignore_merges: false };
    let token = |word: &str| AddedToken::from(word, true);
    let strips = vec![
        token("<|sep|>").lstrip(true),
        token("<s>").rstrip(true),
        token("[MASK]").lstrip(true).rstrip(true),
        AddedToken::from("quick", false).single_word(true),
        AddedToken::from("Å", false),
        AddedToken::from("foxes", false).normalized(true),
        token("..").normalized(false),
    ];
    let deepseek = sequence(&[
        split(r"[\r\n]", "Isolated", false),
        split(r"\s?\p{L}+", "Isolated", false),
        split(r"\s?\p{P}+", "Isolated", false),
        split(r"[一-龥ࠀ-一가-퟿]+", "Isolated", false),
        json!({"type": "Digits", "individual_digits": true}),
        byte_level(false),
    ]);
    vec![
        case("gpt2", Value::Null, byte_level(true), PLAIN),
        case("neox", json!({"type": "NFC"}), byte_level(true), PLAIN),
        Case { added: strips.clone(), ..case("gpt2 with tokens that strip", Value::Null, byte_level(true), PLAIN) },
        Case { added: strips.clone(), ..case("lower case with tokens that strip", json!({"type": "Lowercase"}), byte_level(true), PLAIN) },
        case(
            "llama3",
            Value::Null,
            sequence(&[split(LLAMA3, "Isolated", false), byte_level(false)]),
            Kind::Bpe { byte_fallback: false, ignore_merges: true },
        ),
        case("qwen2", json!({"type": "NFC"}), sequence(&[split(LLAMA3, "Removed", true), byte_level(false)]), PLAIN),
        case("llama", Value::Null, metaspace("first", false), fallback()),
        case("llama, always", Value::Null, metaspace("always", false), fallback()),
        case("llama 2", legacy.clone(), Value::Null, fallback()),
        Case { added: strips.clone(), ..case("llama 2 with tokens that strip", legacy, Value::Null, fallback()) },
        case(
            "gemma",
            space.clone(),
            json!({"type": "Split", "pattern": {"String": " "}, "behavior": "MergedWithPrevious", "invert": false}),
            fallback(),
        ),
        case("merged with previous", Value::Null, split(" ", "MergedWithPrevious", false), PLAIN),
        case("merged with next", Value::Null, split(" ", "MergedWithNext", false), PLAIN),
        case("contiguous", Value::Null, split(r"\s", "Contiguous", false), PLAIN),
        case("bert", bert, json!({"type": "BertPreTokenizer"}), Kind::WordPiece),
        Case { added: strips, ..case("t5", t5, metaspace("always", true), Kind::Unigram) },
        case("unigram without words", json!({"type": "NFKC"}), metaspace("always", false), Kind::Unigram),
        case("deepseek", Value::Null, deepseek, PLAIN),
        case(
            "digits from the right",
            Value::Null,
            sequence(&[split(r"\d{1,3}(?=(?:\d{3})*\b)", "Isolated", false), byte_level(true)]),
            PLAIN,
        ),
        case("words", Value::Null, json!({"type": "Whitespace"}), PLAIN),
        case(
            "white space",
            json!({"type": "Lowercase"}),
            sequence(&[json!({"type": "WhitespaceSplit"}), json!({"type": "Punctuation", "behavior": "Isolated"})]),
            PLAIN,
        ),
        case("delimiter", Value::Null, json!({"type": "CharDelimiterSplit", "delimiter": " "}), PLAIN),
        case(
            "punctuation and scripts",
            Value::Null,
            sequence(&[json!({"type": "Punctuation", "behavior": "MergedWithNext"}), json!({"type": "UnicodeScripts"}), byte_level(true)]),
            PLAIN,
        ),
        Case { cuts: false, ..case("fixed length", Value::Null, json!({"type": "FixedLength", "length": 5}), Kind::WordPiece) },
        Case { cuts: false, ..case("bytes first", json!({"type": "ByteLevel"}), Value::Null, PLAIN) },
        Case { cuts: false, ..case("a group again", Value::Null, split(r"(\w)\1| ", "Isolated", false), PLAIN) },
    ]
}

impl Case {
    fn tokenizer(&self) -> Tokenizer {
        let model: ModelWrapper = match &self.kind {
            Kind::Bpe { .. } => BPE::default().into(),
            Kind::WordPiece => WordPiece::default().into(),
            Kind::Unigram => Unigram::default().into(),
        };
        let mut tokenizer = Tokenizer::new(model);
        let normalizer: Option<tokenizers::NormalizerWrapper> = serde_json::from_value(self.normalizer.clone()).unwrap();
        tokenizer.with_normalizer(normalizer).unwrap();
        let pre_tokenizer: Option<tokenizers::PreTokenizerWrapper> = serde_json::from_value(self.pre_tokenizer.clone()).unwrap();
        tokenizer.with_pre_tokenizer(pre_tokenizer);
        let special = vec![AddedToken::from("<unk>", true)];
        let mut trainer: TrainerWrapper = match &self.kind {
            Kind::Bpe { byte_fallback: false, .. } => {
                let alphabet = tokenizers::pre_tokenizers::byte_level::ByteLevel::alphabet().into_iter().collect();
                BpeTrainer::builder().vocab_size(400).show_progress(false).special_tokens(special).initial_alphabet(alphabet).build().into()
            }
            Kind::Bpe { .. } => BpeTrainer::builder().vocab_size(200).show_progress(false).special_tokens(special).build().into(),
            Kind::WordPiece => WordPieceTrainer::builder().vocab_size(120).show_progress(false).special_tokens(special).build().into(),
            Kind::Unigram => {
                let mut builder = UnigramTrainer::builder();
                builder
                    .vocab_size(120)
                    .show_progress(false)
                    .special_tokens(special)
                    .unk_token(Some("<unk>".to_owned()))
                    .build()
                    .unwrap()
                    .into()
            }
        };
        tokenizer.train(&mut trainer, [CORPUS; 3].into_iter()).unwrap();
        let mut value = serde_json::to_value(&tokenizer).unwrap();
        match &self.kind {
            Kind::Bpe { byte_fallback, ignore_merges } => {
                value["model"]["ignore_merges"] = json!(ignore_merges);
                value["model"]["unk_token"] = json!("<unk>");
                value["model"]["fuse_unk"] = json!(true);
                if *byte_fallback {
                    value["model"]["byte_fallback"] = json!(true);
                    let vocabulary = value["model"]["vocab"].as_object_mut().unwrap();
                    let first = vocabulary.len();
                    (0..256).for_each(|byte| _ = vocabulary.insert(format!("<0x{byte:02X}>"), json!(first + byte)));
                }
            }
            Kind::WordPiece => value["model"]["unk_token"] = json!("<unk>"),
            Kind::Unigram => {}
        }
        let mut tokenizer: Tokenizer = serde_json::from_value(value).unwrap();
        tokenizer.add_special_tokens(self.added.iter().cloned()).unwrap();
        tokenizer
    }
}

fn first(beginnings: &Beginnings, tokenizer: &Tokenizer, mut text: &str, wanted: usize, allowed: Option<u64>) -> Option<Beginning> {
    match beginnings.of(tokenizer, &mut text, wanted, allowed) {
        Ok(beginning) => Some(beginning),
        Err(Fault::Memory(_)) => None,
        Err(Fault::Tokenizer(problem)) => panic!("{problem}"),
    }
}

#[test]
fn the_first_tokens_are_those_of_the_whole_text() {
    let mut failures = Vec::new();
    for case in cases() {
        let (tokenizer, beginnings) = (case.tokenizer(), Beginnings::default());
        let mut cut = 0;
        for (number, text) in texts().iter().enumerate() {
            let whole = tokenizer.encode_fast(text.as_str(), false).unwrap();
            let whole = whole.get_ids();
            for wanted in (1..40).chain((40..whole.len() + 3).step_by(31)) {
                let beginning = first(&beginnings, &tokenizer, text, wanted, None).unwrap();
                let ids = beginning.encoding.get_ids();
                cut += usize::from(ids.len() < whole.len());
                let enough = if beginning.is_all { ids == whole } else { ids.len() >= wanted && ids == &whole[..ids.len()] };
                if !enough {
                    let place = ids.iter().zip(whole).position(|(own, other)| own != other);
                    failures.push(format!(
                        "{}, text {number}, {wanted} tokens: differs at {place:?}, {} of {}",
                        case.name,
                        ids.len(),
                        whole.len()
                    ));
                    break;
                }
            }
        }
        assert!(cut > 50, "{}: only {cut} texts were cut", case.name);
    }
    assert!(failures.is_empty(), "{}", failures.join("\n"));
}

/// A text of some megabytes is cut for a few tokens: with less memory than the whole text would take. Without a place to cut, it is refused.
#[test]
fn long_texts_take_memory_near_what_is_kept() {
    let long = "the quick brown fox jumps over the lazy dog. ".repeat(60_000);
    for case in cases() {
        let (tokenizer, beginnings) = (case.tokenizer(), Beginnings::default());
        let allowed = Some(20_000 * BYTES_PER_BYTE);
        let found = first(&beginnings, &tokenizer, &long, 129, allowed);
        assert_eq!(found.is_some(), case.cuts, "{}", case.name);
        assert!(found.is_none_or(|found| found.encoding.len() >= 129 && !found.is_all), "{}", case.name);
    }
    let run = "a".repeat(100_000);
    assert!(first(&Beginnings::default(), &cases()[0].tokenizer(), &run, 129, Some(20_000 * BYTES_PER_BYTE)).is_none(), "one word");
}

/// Every place that is called safe, in every text: whatever stands behind it, the tokens before it are the same.
#[test]
fn nothing_behind_a_safe_place_matters() {
    for case in cases().into_iter().filter(|case| case.cuts) {
        let tokenizer = case.tokenizer();
        let cuts = Cuts::new(&tokenizer).unwrap();
        let mut caches = Caches::default();
        let mut found = 0;
        let ids = |text: &str| tokenizer.encode_fast(text, false).unwrap().get_ids().to_vec();
        for text in texts().iter().take(3) {
            let letters: Vec<(usize, char)> = text.char_indices().take(260).collect();
            for window in letters.windows(4) {
                let around =
                    Around { outer_before: Some(window[0].1), before: window[1].1, after: window[2].1, outer_after: Some(window[3].1) };
                if !cuts.is_safe(around, tokenizer.get_model(), &mut caches) {
                    continue;
                }
                found += 1;
                let end = window[2].0;
                let before = ids(&text[..end]);
                for behind in ["", "a", " ", "\n", "<|sep|>", " <s>", "1", "\u{301}", "   [MASK] x", "'s", "，"] {
                    // The two characters that decided stay.
                    let longer = format!("{}{}{}{behind}", &text[..end], window[2].1, window[3].1);
                    let longer = ids(&longer);
                    assert_eq!(longer[..before.len().min(longer.len())], before, "{}: {around:?} then {behind:?}", case.name);
                }
            }
        }
        assert!(found > 20, "{}: {found}", case.name);
    }
}

#[test]
fn texts_are_read_only_as_far_as_wanted() {
    let tokenizer = cases()[0].tokenizer();
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("long.txt");
    std::fs::write(&path, "the quick brown fox ".repeat(100_000)).unwrap();
    let mut document = crate::text::Documents::open(&path, "text").unwrap().next_document().unwrap().unwrap();
    let Ok(beginning) = Beginnings::default().of(&tokenizer, &mut document, 100, None) else { panic!("a text of words") };
    assert!(beginning.encoding.len() >= 100 && !beginning.is_all);
    assert!(document.text().len() < 4000 && !document.is_whole(), "{} bytes", document.text().len());
}
