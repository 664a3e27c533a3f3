//! What a network declares: parts with words and numbers, parts of parts, and the coordinates of each.

use super::names::Step;
use crate::parameters::Chosen;

/// A part of a network.
#[derive(Debug)]
pub(super) struct Part {
    pub(super) word: &'static str,
    pub(super) number: Option<usize>,
    pub(super) chosen: Chosen,
    /// The part whose weights these are too; then there are none here.
    pub(super) tied: Option<&'static str>,
    pub(super) children: Vec<Part>,
}

impl Part {
    pub(super) fn new(word: &'static str, chosen: Chosen) -> Self {
        Self { word, number: None, chosen, tied: None, children: Vec::new() }
    }

    pub(super) fn numbered(word: &'static str, number: usize, chosen: Chosen) -> Self {
        Self { number: Some(number), ..Self::new(word, chosen) }
    }

    pub(super) fn tied(word: &'static str, to: &'static str) -> Self {
        Self { tied: Some(to), ..Self::new(word, Chosen::default()) }
    }

    /// With parts of its own.
    pub(super) fn with(mut self, children: Vec<Self>) -> Self {
        self.children = children;
        self
    }

    /// Its word and number.
    pub(super) fn title(&self) -> String {
        self.number.map_or_else(|| self.word.to_owned(), |number| format!("{}{number}", self.word))
    }
}

/// The union of all parts of a word below some parts, as a part without number: `attn` of all layers.
pub(super) fn everywhere(word: &'static str, parts: &[Part]) -> Option<Part> {
    let mut chosen = Chosen::default();
    parts.iter().flat_map(|part| &part.children).filter(|part| part.word == word).for_each(|part| chosen.extend(&part.chosen));
    (chosen.count() > 0).then(|| Part::new(word, chosen))
}

/// What a path of words leads to.
pub(super) enum Found {
    Here(Chosen),
    Tied(&'static str),
    Nothing,
}

/// The coordinates at a path, of all numbers in its ranges. A number that is not there is nothing, like a word.
pub(super) fn find(parts: &[Part], path: &[Step]) -> Found {
    let Some((step, rest)) = path.split_first() else { return Found::Nothing };
    let mut chosen = Chosen::default();
    let (first, last) = step.numbers.as_ref().map_or((None, None), |numbers| (Some(*numbers.start()), Some(*numbers.end())));
    let has = |number: Option<usize>| parts.iter().any(|part| part.word == step.word && part.number == number);
    if !has(first) || !has(last) {
        return Found::Nothing;
    }
    for part in parts.iter().filter(|part| part.word == step.word && part.number >= first && part.number <= last) {
        if let Some(to) = part.tied {
            return Found::Tied(to);
        }
        if rest.is_empty() {
            chosen.extend(&part.chosen);
            continue;
        }
        match find(&part.children, rest) {
            Found::Here(own) => chosen.extend(&own),
            other => return other,
        }
    }
    if chosen.count() == 0 { Found::Nothing } else { Found::Here(chosen) }
}

/// The parts in words, runs of numbers as ranges: `l0-l5 (each with attn, mlp, norms, h0-h7), embed, norms, unembed`.
pub(super) fn words(parts: &[Part]) -> String {
    let mut all = Vec::new();
    let mut rest = parts;
    while let Some(part) = rest.first() {
        let same = |other: &&Part| other.word == part.word && other.number.is_some() == part.number.is_some() && alike(part, other);
        let count = rest.iter().take_while(same).count().max(1);
        let run = &rest[..count];
        let mut text = if count > 1 { format!("{}-{}", part.title(), run[count - 1].title()) } else { part.title() };
        if let Some(to) = part.tied {
            text += &format!(" (tied to {to})");
        } else if !part.children.is_empty() {
            text += &format!(" ({}{})", if count > 1 { "each with " } else { "with " }, words(&part.children));
        }
        all.push(text);
        rest = &rest[count..];
    }
    all.join(", ")
}

/// Whether two parts have parts of the same words and numbers.
fn alike(one: &Part, two: &Part) -> bool {
    let names = |part: &Part| part.children.iter().map(Part::title).collect::<Vec<_>>();
    names(one) == names(two)
}
