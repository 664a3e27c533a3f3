//! Texts of protocol 0, in which values are written as Python would.

/// A unicode text: characters of Latin-1, and the escapes `\uXXXX` and `\UXXXXXXXX`.
pub(super) fn raw_unicode_escape(line: &[u8]) -> Option<String> {
    let mut text = String::with_capacity(line.len());
    let mut rest = line;
    while let [first, after @ ..] = rest {
        rest = after;
        let digits = match (first, after.first()) {
            (b'\\', Some(b'u')) => 4,
            (b'\\', Some(b'U')) => 8,
            _ => {
                text.push(char::from(*first));
                continue;
            }
        };
        let digits = after.get(1..=digits)?;
        rest = &after[1 + digits.len()..];
        text.push(char::from_u32(hexadecimal(digits)?)?);
    }
    Some(text)
}

/// A string in quotes, with the escapes of Python.
pub(super) fn quoted(line: &[u8]) -> Option<Vec<u8>> {
    let quote = *line.first().filter(|&&quote| quote == b'"' || quote == b'\'')?;
    let mut rest = line[1..].strip_suffix(&[quote])?;
    let mut bytes = Vec::with_capacity(rest.len());
    while let [first, after @ ..] = rest {
        rest = after;
        if *first != b'\\' {
            bytes.push(*first);
            continue;
        }
        let (escape, after) = rest.split_first()?;
        rest = after;
        bytes.push(match escape {
            b'n' => b'\n',
            b'r' => b'\r',
            b't' => b'\t',
            b'\\' | b'\'' | b'"' => *escape,
            b'x' => {
                let (digits, after) = rest.split_at_checked(2)?;
                rest = after;
                hexadecimal(digits)? as u8
            }
            _ => return None,
        });
    }
    Some(bytes)
}

fn hexadecimal(digits: &[u8]) -> Option<u32> {
    digits.iter().try_fold(0u32, |value, &digit| Some(value << 4 | char::from(digit).to_digit(16)?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn texts_are_read_as_python_reads_them() {
        // What `pickle.dumps(text, 0)` and Python 2 wrote.
        assert_eq!(raw_unicode_escape(b"a\\u000a\xe9\\u6771\\U0001f642\\u005c").unwrap(), "a\né東🙂\\");
        assert_eq!(raw_unicode_escape(b"C:\\x").unwrap(), "C:\\x");
        assert_eq!(quoted(b"'a\\n\\x00\\xff\\\\\\'\"'").unwrap(), b"a\n\x00\xff\\'\"");
        for line in [&b"\\u12"[..], b"\\ud83d", b"\\uzzzz"] {
            assert_eq!(raw_unicode_escape(line), None);
        }
        for line in [&b"abc"[..], b"'a", b"'a\\'", b"'\\x1'", b"", b"'"] {
            assert_eq!(quoted(line), None, "{line:?}");
        }
    }
}
