//! The grammar of names: `l3`, `l3 attn`, `l3.h1`, `l0-l2`, `stage1 block2`, and lists of them.

use std::ops::RangeInclusive;

/// One word of a name with the numbers behind it: `l0-l2` is `l` and 0 to 2.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Step {
    pub(super) word: String,
    pub(super) numbers: Option<RangeInclusive<usize>>,
}

/// Other words for the same thing.
const ALIASES: [(&str, &str); 14] = [
    ("layer", "l"),
    ("layers", "l"),
    ("head", "h"),
    ("group", "g"),
    ("attention", "attn"),
    ("norm", "norms"),
    ("ln", "norms"),
    ("embedding", "embed"),
    ("embeddings", "embed"),
    ("unembedding", "unembed"),
    ("blocks", "block"),
    ("stages", "stage"),
    ("ffn", "mlp"),
    ("mlps", "mlp"),
];

/// Words of components, which records have in lower case and one way.
const WORDS: [&str; 14] =
    ["l", "h", "g", "attn", "mlp", "norms", "embed", "unembed", "stage", "block", "stem", "reduction", "classifier", "full"];

impl Step {
    /// Whether its word is one of those that components have.
    pub(super) fn is_usual(&self) -> bool {
        WORDS.contains(&self.word.as_str())
    }

    /// The step behind the text of those before it.
    pub(super) fn after(&self, mut text: String) -> String {
        let is_joined = matches!(self.word.as_str(), "h" | "g");
        if !text.is_empty() && !is_joined {
            text.push(' ');
        }
        text += &self.word;
        if let Some(numbers) = &self.numbers {
            text += &numbers.start().to_string();
            if numbers.end() > numbers.start() {
                text += &format!("-{}{}", self.word, numbers.end());
            }
        }
        text
    }
}

/// The names of a list: parts between commas that stand in no brackets.
#[must_use]
pub fn split(list: &str) -> Vec<String> {
    let (mut names, mut depth) = (vec![String::new()], 0i32);
    for letter in list.chars() {
        match letter {
            '[' => depth += 1,
            ']' => depth -= 1,
            _ => {}
        }
        match (letter, names.last_mut()) {
            (',', _) if depth <= 0 => names.push(String::new()),
            (letter, Some(name)) => name.push(letter),
            (_, None) => {}
        }
    }
    names.into_iter().map(|name| name.trim().to_owned()).filter(|name| !name.is_empty()).collect()
}

/// The steps of a name: words, each with a number or a range of numbers, with spaces, points and underscores between them or nothing.
/// None for what is no such name.
pub(super) fn steps(name: &str) -> Option<Vec<Step>> {
    let lower = name.to_ascii_lowercase();
    let mut rest = lower.trim();
    let mut all = Vec::new();
    while !rest.is_empty() {
        let word = taken(&mut rest, |letter| letter.is_ascii_alphabetic());
        if word.is_empty() {
            return None;
        }
        let word = ALIASES.iter().find(|(alias, _)| *alias == word).map_or(word, |(_, word)| *word).to_owned();
        // `layer 3` and `layer.3` too, but not `attn 3`.
        let spaced = rest.trim_start_matches([' ', '.', '_']);
        if spaced.starts_with(|letter: char| letter.is_ascii_digit()) {
            rest = spaced;
        }
        let numbers = match number(&mut rest) {
            Number::None => None,
            Number::TooLong => return None,
            Number::Some(first) => match rest.trim_start().strip_prefix(['-', '–']) {
                None => Some(first..=first),
                Some(behind) => {
                    rest = behind.trim_start();
                    let again = taken(&mut rest, |letter| letter.is_ascii_alphabetic());
                    let again = ALIASES.iter().find(|(alias, _)| *alias == again).map_or(again, |(_, word)| *word);
                    let Number::Some(last) = number(&mut rest) else { return None };
                    if last < first || !(again.is_empty() || again == word) {
                        return None;
                    }
                    Some(first..=last)
                }
            },
        };
        all.push(Step { word, numbers });
        rest = rest.trim_start_matches([' ', '.', '_']);
    }
    Some(all).filter(|all| !all.is_empty())
}

enum Number {
    None,
    Some(usize),
    TooLong,
}

fn number(rest: &mut &str) -> Number {
    match taken(rest, |letter| letter.is_ascii_digit()) {
        "" => Number::None,
        digits => digits.parse().map_or(Number::TooLong, Number::Some),
    }
}

/// The letters at the beginning that are of a kind.
fn taken<'a>(rest: &mut &'a str, is_of_kind: impl Fn(char) -> bool) -> &'a str {
    let end = rest.find(|letter| !is_of_kind(letter)).unwrap_or(rest.len());
    let (own, behind) = rest.split_at(end);
    *rest = behind;
    own
}

#[cfg(test)]
mod tests {
    use super::super::plain_name;
    use super::*;

    #[test]
    fn names_have_one_plain_form() {
        for (given, plain) in [
            ("l3", "l3"),
            ("L3H1", "l3h1"),
            ("l3 h1", "l3h1"),
            ("l3.h1", "l3h1"),
            (" l3.attn ", "l3 attn"),
            ("l3attn", "l3 attn"),
            ("layer 3 attention", "l3 attn"),
            ("layers.3.mlp", "l3 mlp"),
            ("l0-l2", "l0-l2"),
            ("l0-2 mlp", "l0-l2 mlp"),
            ("l1h0-h3", "l1h0-h3"),
            ("l1-1", "l1"),
            ("Embed", "embed"),
            ("stage1 block2", "stage1 block2"),
            ("stage1.block2", "stage1 block2"),
            ("layers.0.weight[0:16,  :]", "layers.0.weight[0:16, :]"),
            ("model.Norm.weight", "model.Norm.weight"),
        ] {
            assert_eq!(plain_name(given), plain, "{given}");
        }
    }

    #[test]
    fn lists_are_split_outside_of_brackets() {
        assert_eq!(split("l0 attn, l1h2,,w[0:4, 1]"), ["l0 attn", "l1h2", "w[0:4, 1]"]);
        assert!(split(" , ").is_empty());
    }

    #[test]
    fn what_is_no_name_is_seen() {
        for text in ["", "3", "l3-", "l3-l1", "l3-h4", "l3 !", "l99999999999999999999999", "l-3"] {
            assert_eq!(steps(text), None, "{text}");
        }
    }
}
