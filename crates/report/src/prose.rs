//! Sentences on a screen of so many columns.

/// Columns of a screen.
pub const COLUMNS: usize = 80;

/// The text with its sentences broken into lines of so many columns. Rows of tables, whose columns stand two spaces apart, stay whole.
#[must_use]
pub fn wrapped(text: &str, columns: usize) -> String {
    let mut out = Vec::new();
    for line in text.lines() {
        if line.chars().count() <= columns || line.trim_start().contains("  ") {
            out.push(line.to_owned());
        } else {
            out.extend(lines_of(line, columns));
        }
    }
    out.join("\n")
}

/// Every sentence once, with all that it is said of.
pub(crate) fn said_once<'a>(said: impl IntoIterator<Item = (String, &'a str)>) -> Vec<(Vec<String>, &'a str)> {
    let mut once: Vec<(Vec<String>, &str)> = Vec::new();
    for (name, sentence) in said {
        match once.iter_mut().find(|(_, other)| *other == sentence) {
            Some((names, _)) => names.push(name),
            None => once.push((vec![name], sentence)),
        }
    }
    once
}

fn lines_of(sentence: &str, columns: usize) -> Vec<String> {
    let mut lines = vec![String::new()];
    let mut length = 0;
    for word in sentence.split(' ') {
        let own = word.chars().count();
        if length > 0 && length + 1 + own > columns {
            lines.push(String::new());
            length = 0;
        }
        if let Some(line) = lines.last_mut() {
            if length > 0 {
                line.push(' ');
                length += 1;
            }
            line.push_str(word);
            length += own;
        }
    }
    lines
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sentences_are_broken_and_tables_are_not() {
        let text = "one two three four\n\na  table  of  words\n\u{2212}1,000 nats and more";
        assert_eq!(wrapped(text, 10), "one two\nthree four\n\na  table  of  words\n\u{2212}1,000\nnats and\nmore");
        // A word that is longer than a line stands by itself.
        assert_eq!(wrapped("a /very/long/path b", 8), "a\n/very/long/path\nb");
        assert_eq!(wrapped("", 8), "");
    }

    #[test]
    fn the_same_sentence_is_said_once() {
        let said = [("a", "few"), ("b", "none"), ("c", "few")].map(|(name, sentence)| (name.to_owned(), sentence));
        assert_eq!(said_once(said), [(vec!["a".to_owned(), "c".to_owned()], "few"), (vec!["b".to_owned()], "none")]);
    }
}
