//! Which characters a regular expression can match side by side.
//!
//! Tokenizers cut text into words with expressions such as GPT-2's ` ?\p{L}+|\s+(?!\S)|\s+`. Between two characters that no match can
//! hold side by side, and that no lookahead can read side by side, every search before them goes the same way whether the text ends there
//! or goes on: the engine takes the same steps in the same order, since none of its steps can go from the one character to the other.
//! This module finds out for which pairs that is so, from the expression alone: it lists the places of the expression that read a
//! character, and which can follow which (Glushkov's construction). A lookahead counts as places that can follow; what looks at the end of
//! the text or of a word, as one that reads any character.

use std::collections::HashMap;

use regex::Regex;

/// Places that read a character, as the bits of a number.
type Set = u128;

/// An expression, as far as neighbors matter.
pub(super) struct Pattern {
    /// What each place reads. `None` reads anything.
    atoms: Vec<Option<Regex>>,
    /// For every place, those that can come next.
    follow: Vec<Set>,
    /// Places that are a whole match by themselves, without anything to look at.
    alone: Set,
    /// The same, looking around or not.
    alone_perhaps: Set,
}

/// What the parts of an expression are made of.
#[derive(Debug)]
enum Node {
    /// A place that reads a character.
    Atom(usize),
    /// One after the other.
    Sequence(Vec<Node>),
    /// One or another.
    Choice(Vec<Node>),
    /// Again and again: whether no time is enough, and whether one is.
    Repeat { node: Box<Node>, none: bool, once: bool, again: bool },
    /// Reads what comes without taking it; looks back when that is nothing.
    Look(Box<Node>),
    /// Nothing.
    Empty,
}

/// The places where a part can begin and end, and whether it may read nothing.
struct Ends {
    first: Set,
    last: Set,
    skips: bool,
}

impl Pattern {
    /// Understands an expression; `None` when it has something that is not understood, has too many places, or can match nothing.
    pub(super) fn new(expression: &str) -> Option<Self> {
        let mut parser = Parser { rest: expression, atoms: Vec::new(), ignore_case: false, dot_all: false };
        let node = parser.choice(0)?;
        if !parser.rest.is_empty() {
            return None;
        }
        let mut pattern = Self { follow: vec![0; parser.atoms.len()], atoms: parser.atoms, alone: 0, alone_perhaps: 0 };
        let ends = pattern.connect(&node);
        if ends.skips {
            return None;
        }
        (pattern.alone, pattern.alone_perhaps) = (alone(&node, false), alone(&node, true));
        Some(pattern)
    }

    /// Notes which places can follow one another.
    fn connect(&mut self, node: &Node) -> Ends {
        match node {
            Node::Atom(place) => Ends { first: 1 << place, last: 1 << place, skips: false },
            Node::Empty => Ends { first: 0, last: 0, skips: true },
            Node::Look(inner) => Ends { first: self.connect(inner).first, last: 0, skips: true },
            Node::Choice(parts) => {
                parts.iter().map(|part| self.connect(part)).fold(Ends { first: 0, last: 0, skips: false }, |all, part| Ends {
                    first: all.first | part.first,
                    last: all.last | part.last,
                    skips: all.skips || part.skips,
                })
            }
            Node::Sequence(parts) => {
                let mut whole = Ends { first: 0, last: 0, skips: true };
                for part in parts {
                    let part = self.connect(part);
                    self.link(whole.last, part.first);
                    whole.first |= if whole.skips { part.first } else { 0 };
                    whole.last = part.last | if part.skips { whole.last } else { 0 };
                    whole.skips &= part.skips;
                }
                whole
            }
            Node::Repeat { node, none, again, .. } => {
                let inner = self.connect(node);
                if *again {
                    self.link(inner.last, inner.first);
                }
                Ends { skips: inner.skips || *none, ..inner }
            }
        }
    }

    fn link(&mut self, from: Set, to: Set) {
        for place in places(from) {
            self.follow[place] |= to;
        }
    }
}

/// The places that can be a whole match, or part, by themselves; `looking` when others may look around beside them.
fn alone(node: &Node, looking: bool) -> Set {
    match node {
        Node::Atom(place) => 1 << place,
        Node::Empty | Node::Look(_) => 0,
        Node::Choice(parts) => parts.iter().map(|part| alone(part, looking)).fold(0, |all, part| all | part),
        Node::Sequence(parts) => {
            let mut all = 0;
            for (index, part) in parts.iter().enumerate() {
                if parts.iter().enumerate().all(|(other, part)| other == index || skips(part, looking)) {
                    all |= alone(part, looking);
                }
            }
            all
        }
        Node::Repeat { node, once, .. } => {
            if *once {
                alone(node, looking)
            } else {
                0
            }
        }
    }
}

/// Whether a part may read nothing, and, unless `looking`, look at nothing.
fn skips(node: &Node, looking: bool) -> bool {
    match node {
        Node::Atom(_) => false,
        Node::Empty => true,
        Node::Look(_) => looking,
        Node::Choice(parts) => parts.iter().any(|part| skips(part, looking)),
        Node::Sequence(parts) => parts.iter().all(|part| skips(part, looking)),
        Node::Repeat { node, none, .. } => *none || skips(node, looking),
    }
}

fn places(set: Set) -> impl Iterator<Item = usize> {
    (0..Set::BITS as usize).filter(move |place| set >> place & 1 == 1)
}

/// What is known about characters, kept because the same ones come again and again.
#[derive(Default)]
pub(super) struct Cache(HashMap<char, Set>);

impl Pattern {
    /// The places that read a character.
    fn reading(&self, letter: char, cache: &mut Cache) -> Set {
        *cache.0.entry(letter).or_insert_with(|| {
            let mut buffer = [0; 4];
            let text: &str = letter.encode_utf8(&mut buffer);
            let reads = |atom: &Option<Regex>| atom.as_ref().is_none_or(|atom| atom.is_match(text));
            self.atoms.iter().enumerate().filter(|(_, atom)| reads(atom)).fold(0, |set, (place, _)| set | 1 << place)
        })
    }

    /// Whether a match, or something that looks ahead, can read the one character right before the other. `None` stands for any.
    pub(super) fn joins(&self, before: Option<char>, after: Option<char>, cache: &mut Cache) -> bool {
        let mut reading = |letter: Option<char>| letter.map_or(Set::MAX, |letter| self.reading(letter, cache));
        let (before, after) = (reading(before), reading(after));
        places(before).filter(|&place| place < self.follow.len()).any(|place| self.follow[place] & after != 0)
    }

    /// Whether the expression matches the character by itself, wherever it stands.
    pub(super) fn matches_alone(&self, letter: char, cache: &mut Cache) -> bool {
        self.reading(letter, cache) & self.alone != 0
    }

    /// Whether no match can take the character between these neighbors, of which `None` stands for any.
    pub(super) fn leaves(&self, before: Option<char>, letter: char, after: Option<char>, cache: &mut Cache) -> bool {
        let own = self.reading(letter, cache);
        own & self.alone_perhaps == 0 && !self.joins(before, Some(letter), cache) && !self.joins(Some(letter), after, cache)
    }
}

/// What looks at characters before it only.
fn looks_back() -> Node {
    Node::Look(Box::new(Node::Empty))
}

/// Groups inside one another at most.
const DEEPEST: usize = 50;

struct Parser<'a> {
    rest: &'a str,
    atoms: Vec<Option<Regex>>,
    ignore_case: bool,
    dot_all: bool,
}

impl<'a> Parser<'a> {
    fn peek(&self) -> Option<char> {
        self.rest.chars().next()
    }

    fn next(&mut self) -> Option<char> {
        let letter = self.peek()?;
        self.rest = &self.rest[letter.len_utf8()..];
        Some(letter)
    }

    fn eat(&mut self, start: &str) -> bool {
        let found = self.rest.strip_prefix(start);
        self.rest = found.unwrap_or(self.rest);
        found.is_some()
    }

    /// A place that reads what this class, escape or letter does.
    fn atom(&mut self, source: &str) -> Option<Node> {
        let flags = match (self.ignore_case, self.dot_all) {
            (false, false) => "",
            (true, false) => "(?i)",
            (false, true) => "(?s)",
            (true, true) => "(?is)",
        };
        let atom = Regex::new(&format!("{flags}\\A(?:{source})\\z")).ok()?;
        self.place(Some(atom))
    }

    fn place(&mut self, atom: Option<Regex>) -> Option<Node> {
        self.atoms.push(atom);
        (self.atoms.len() <= Set::BITS as usize).then(|| Node::Atom(self.atoms.len() - 1))
    }

    /// What looks at the end of the text or of a word.
    fn looks(&mut self) -> Option<Node> {
        Some(Node::Look(Box::new(self.place(None)?)))
    }

    /// Alternatives, up to the end of the group.
    fn choice(&mut self, depth: usize) -> Option<Node> {
        let flags = (self.ignore_case, self.dot_all);
        let mut parts = vec![self.sequence(depth)?];
        while self.eat("|") {
            parts.push(self.sequence(depth)?);
        }
        (self.ignore_case, self.dot_all) = flags;
        Some(if parts.len() == 1 { parts.pop()? } else { Node::Choice(parts) })
    }

    fn sequence(&mut self, depth: usize) -> Option<Node> {
        let mut parts = Vec::new();
        while !matches!(self.peek(), None | Some('|' | ')')) {
            let part = self.part(depth)?;
            parts.push(self.repeated(part)?);
        }
        Some(Node::Sequence(parts))
    }

    fn part(&mut self, depth: usize) -> Option<Node> {
        match self.next()? {
            '(' => self.group(depth + 1),
            '[' => self.class(),
            '\\' => self.escape(),
            '.' => self.atom("."),
            '^' => Some(looks_back()),
            '$' => self.looks(),
            '*' | '+' | '?' | '{' => None,
            letter => self.atom(&regex::escape(letter.encode_utf8(&mut [0; 4]))),
        }
    }

    fn group(&mut self, depth: usize) -> Option<Node> {
        if depth > DEEPEST {
            return None;
        }
        let outside = (self.ignore_case, self.dot_all);
        let (mut ahead, mut behind) = (false, false);
        if self.eat("?") {
            if self.eat("=") || self.eat("!") {
                ahead = true;
            } else if self.eat("<=") || self.eat("<!") {
                behind = true;
            } else if self.eat("P<") || self.eat("<") {
                let end = self.rest.find('>')?;
                self.rest = &self.rest[end + 1..];
            } else if !self.eat(":") && !self.eat(">") && !self.flags()? {
                // Flags for what follows in the group around this one.
                return Some(Node::Empty);
            }
        }
        // What looks back reads what is there in any case: its places play no part.
        let kept = self.atoms.len();
        let inner = self.choice(depth)?;
        if !self.eat(")") {
            return None;
        }
        (self.ignore_case, self.dot_all) = outside;
        if behind {
            self.atoms.truncate(kept);
            return Some(looks_back());
        }
        Some(if ahead { Node::Look(Box::new(inner)) } else { inner })
    }

    /// Flags `(?i)` or `(?i:`; says whether a group follows.
    fn flags(&mut self) -> Option<bool> {
        let mut on = true;
        loop {
            match self.next()? {
                'i' => self.ignore_case = on,
                's' => self.dot_all = on,
                // Anchors that look back, or that count as reading anything, are the same with it.
                'm' => {}
                '-' => on = false,
                ':' => return Some(true),
                ')' => return Some(false),
                _ => return None,
            }
        }
    }

    /// A class in brackets, with classes inside it.
    fn class(&mut self) -> Option<Node> {
        let whole = self.rest;
        let mut depth = 1;
        // A closing bracket that comes first is a letter.
        _ = self.eat("^");
        _ = self.eat("]");
        while depth > 0 {
            match self.next()? {
                '\\' => _ = self.next()?,
                '[' => {
                    depth += 1;
                    if !self.eat("^]") {
                        _ = self.eat("]");
                    }
                }
                ']' => depth -= 1,
                _ => {}
            }
        }
        let length = whole.len() - self.rest.len();
        self.atom(&format!("[{}", &whole[..length]))
    }

    fn escape(&mut self) -> Option<Node> {
        let start = self.rest;
        match self.next()? {
            'b' | 'B' | 'z' | 'Z' => self.looks(),
            'A' | 'G' => Some(looks_back()),
            'p' | 'P' => {
                if self.eat("{") {
                    let end = self.rest.find('}')?;
                    self.rest = &self.rest[end + 1..];
                } else {
                    self.next()?;
                }
                self.atom(&format!("\\{}", &start[..start.len() - self.rest.len()]))
            }
            letter @ ('s' | 'S' | 'd' | 'D' | 'w' | 'W' | 'n' | 'r' | 't' | 'f' | 'v') => self.atom(&format!("\\{letter}")),
            'x' | 'u' => {
                if self.eat("{") {
                    let end = self.rest.find('}')?;
                    self.rest = &self.rest[end + 1..];
                } else {
                    let digits = if start.starts_with('x') { 2 } else { 4 };
                    self.rest.get(..digits)?;
                    self.rest = &self.rest[digits..];
                }
                self.atom(&format!("\\{}", &start[..start.len() - self.rest.len()]))
            }
            letter if letter.is_ascii_alphanumeric() => None,
            letter => self.atom(&regex::escape(letter.encode_utf8(&mut [0; 4]))),
        }
    }

    /// The part with what says how often it comes.
    fn repeated(&mut self, mut part: Node) -> Option<Node> {
        while let Some(sign @ ('*' | '+' | '?' | '{')) = self.peek() {
            self.next();
            let (none, once, again) = match sign {
                '*' => (true, true, true),
                '+' => (false, true, true),
                '?' => (true, true, false),
                _ => {
                    let end = self.rest.find('}')?;
                    let (least, most) = match self.rest[..end].split_once(',') {
                        Some((least, most)) => (least, if most.is_empty() { None } else { Some(most) }),
                        None => (&self.rest[..end], Some(&self.rest[..end])),
                    };
                    let least: u32 = if least.is_empty() { 0 } else { least.parse().ok()? };
                    let most = most.map(str::parse::<u32>).transpose().ok()?;
                    self.rest = &self.rest[end + 1..];
                    (least == 0, least <= 1, most.is_none_or(|most| most > 1))
                }
            };
            // Lazy or possessive: the same places in another order.
            if !self.eat("?") {
                _ = self.eat("+");
            }
            part = Node::Repeat { node: Box::new(part), none, once, again };
        }
        Some(part)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const GPT2: &str = r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+";
    const LLAMA3: &str =
        r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+";

    fn joins(expression: &str, before: char, after: char) -> bool {
        let pattern = Pattern::new(expression).unwrap_or_else(|| panic!("{expression} is not understood"));
        pattern.joins(Some(before), Some(after), &mut Cache::default())
    }

    #[test]
    fn neighbors_are_told_from_the_expression() {
        let cases = [
            (GPT2, 'a', ' ', false),
            (GPT2, ' ', 'a', true),
            (GPT2, 'a', 'b', true),
            (GPT2, 'a', '1', false),
            (GPT2, '.', '1', false),
            (GPT2, '\'', 's', true),
            (GPT2, '\'', 'x', false),
            // The lookahead after white space reads what follows.
            (GPT2, '\n', 'a', true),
            (GPT2, ' ', ' ', true),
            (LLAMA3, 'a', ' ', false),
            (LLAMA3, '.', '\n', true),
            (LLAMA3, '.', 'a', true),
            (LLAMA3, '\n', 'a', true),
            (LLAMA3, '字', '，', false),
            (LLAMA3, '\'', 'S', true),
            (r"a(?=b)", 'a', 'b', true),
            (r"a$", 'a', 'x', true),
            (r"a\b", 'a', ' ', true),
            (r"\d{1,3}(?=(?:\d{3})*\b)", '1', ' ', true),
            (r"(?<=a)b", 'a', 'b', false),
            (r"[a-c&&[^b]]d?", 'b', 'd', false),
            (r"[]x]y", ']', 'y', true),
            (r"(?i)ab", 'A', 'B', true),
            (r"(?i:a)b", 'a', 'B', false),
            (r"a{2,3}", 'a', 'a', true),
            (r"a{0,1}b", 'a', 'a', false),
            (r"(?:ab?)+", 'b', 'a', true),
            (r"\u{61}\x62", 'a', 'b', true),
        ];
        for (expression, before, after, expected) in cases {
            assert_eq!(joins(expression, before, after), expected, "{expression}: {before:?} {after:?}");
        }
    }

    #[test]
    fn characters_that_match_alone_and_characters_that_are_left() {
        let mut cache = Cache::default();
        let gpt2 = Pattern::new(GPT2).unwrap();
        assert!("a1. \n'\u{301}".chars().all(|letter| gpt2.matches_alone(letter, &mut cache)));
        for (expression, alone) in
            [(r"a(?!b)", false), (r"(?<=b)a", false), (r"^a", false), (r"b?a", true), (r"a{2,}", false), (r"(?:a)+", true)]
        {
            assert_eq!(Pattern::new(expression).unwrap().matches_alone('a', &mut Cache::default()), alone, "{expression}");
        }
        let spaces = Pattern::new(" {2,}").unwrap();
        let mut cache = Cache::default();
        assert!(spaces.leaves(Some('a'), ' ', Some('b'), &mut cache) && spaces.leaves(None, 'a', None, &mut cache));
        assert!(!spaces.leaves(Some('a'), ' ', Some(' '), &mut cache) && !spaces.leaves(None, ' ', Some('b'), &mut cache));
    }

    #[test]
    fn what_is_not_understood_is_refused() {
        let deep = "(".repeat(1000);
        for expression in [r"(a)\1", r"a*", r"", r"a|", r"(?x) a", r"a)", r"(a", r"[a", r"\h", r"a{b}", "\\", &deep] {
            assert!(Pattern::new(expression).is_none(), "{expression}");
        }
    }

    /// For every short text and every place in it whose neighbors no match joins: the matches before it are those of the text cut there.
    #[test]
    fn matches_before_such_a_place_do_not_depend_on_what_follows() {
        const LENGTH: u32 = 5;
        let letters = ['a', '1', ' ', '\n', '.', '\''];
        for expression in [GPT2, LLAMA3, r"a{2}(?!1)|\d(?=(?:\d\d)*\b)|\s++$|a(?= a)| ?\.+", r"(?:a1|a)(?:1a)?| +?\.|\n|(?<=a)1"] {
            let (pattern, mut cache) = (Pattern::new(expression).unwrap(), Cache::default());
            let engine = tokenizers::pre_tokenizers::split::SplitPattern::Regex(expression.to_owned());
            let engine =
                tokenizers::pre_tokenizers::split::Split::new(engine, tokenizers::SplitDelimiterBehavior::Isolated, false).unwrap();
            let mut found = 0;
            for number in 0..letters.len().pow(LENGTH) {
                let text: String = (0..LENGTH).map(|place| letters[number / letters.len().pow(place) % letters.len()]).collect();
                let whole: Vec<_> = engine.regex.find_iter(&text).collect();
                for place in 1..LENGTH as usize {
                    let neighbors = (text[..place].chars().last(), text[place..].chars().next());
                    if !pattern.joins(neighbors.0, neighbors.1, &mut cache) {
                        found += 1;
                        let cut: Vec<_> = engine.regex.find_iter(&text[..place]).collect();
                        let before: Vec<_> = whole.iter().copied().filter(|found| found.0 < place).collect();
                        assert_eq!(cut, before, "{expression}: {text:?} at {place}");
                        if pattern.matches_alone(neighbors.0.unwrap(), &mut cache) {
                            assert_eq!(cut.last().map(|found| found.1), Some(place), "{expression}: {text:?} at {place}");
                        }
                    }
                }
            }
            assert!(found > 1000, "{expression}: {found}");
        }
    }
}
