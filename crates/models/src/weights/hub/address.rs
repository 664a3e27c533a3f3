//! Addresses on the hub, and where a redirect leads.

/// A repository's kind: it decides the addresses, and the names of folders.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    /// A model.
    Model,
    /// A data set.
    DataSet,
}

impl Kind {
    /// The word in the addresses of the hub's interface and in the names of the cache's folders.
    pub(super) fn plural(self) -> &'static str {
        match self {
            Self::Model => "models",
            Self::DataSet => "datasets",
        }
    }
}

/// Where the hub tells commit and files of a repository at a revision, with the files' lengths.
pub(super) fn listing(endpoint: &str, kind: Kind, name: &str, revision: &str) -> String {
    format!("{endpoint}/api/{}/{name}/revision/{}?blobs=true", kind.plural(), quoted(revision, false))
}

/// Where a file is.
pub(super) fn file(endpoint: &str, kind: Kind, name: &str, revision: &str, file: &str) -> String {
    let prefix = if kind == Kind::DataSet { "datasets/" } else { "" };
    format!("{endpoint}/{prefix}{name}/resolve/{}/{}", quoted(revision, false), quoted(file, true))
}

/// A text as part of an address: everything but plain characters, and slashes where they part folders, is escaped.
fn quoted(text: &str, keep_slashes: bool) -> String {
    let mut out = String::with_capacity(text.len());
    for byte in text.bytes() {
        if byte.is_ascii_alphanumeric() || b"-._~".contains(&byte) || (keep_slashes && byte == b'/') {
            out.push(byte.into());
        } else {
            out += &format!("%{byte:02X}");
        }
    }
    out
}

/// Scheme and host with port, and what follows.
fn parts(address: &str) -> Option<(&str, &str, &str)> {
    let (scheme, rest) = address.split_once("://")?;
    let end = rest.find(['/', '?', '#']).unwrap_or(rest.len());
    Some((scheme, &rest[..end], &rest[end..]))
}

/// Where a redirect from `address` to `location` leads; None when that cannot be told.
pub(super) fn redirected(address: &str, location: &str) -> Option<String> {
    let (scheme, host, path) = parts(address)?;
    if let Some((other, _, _)) = parts(location) {
        return ["http", "https"].contains(&other.to_ascii_lowercase().as_str()).then(|| location.to_owned());
    }
    if let Some(rest) = location.strip_prefix("//") {
        return Some(format!("{scheme}://{rest}"));
    }
    if location.starts_with('/') {
        return Some(format!("{scheme}://{host}{location}"));
    }
    let path = path.split(['?', '#']).next().unwrap_or_default();
    let folder = path.rfind('/').map_or("/", |place| &path[..=place]);
    Some(format!("{scheme}://{host}{folder}{location}"))
}

/// Whether two addresses are of the same server, which alone may see a token; from plain to encrypted transport it may follow.
pub(super) fn is_same_server(from: &str, to: &str) -> bool {
    let (Some((scheme, host, _)), Some((other_scheme, other_host, _))) = (parts(from), parts(to)) else { return false };
    host.eq_ignore_ascii_case(other_host)
        && (scheme.eq_ignore_ascii_case(other_scheme) || (scheme.eq_ignore_ascii_case("http") && !host.contains(':')))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_are_escaped() {
        assert_eq!(listing("http://h", Kind::DataSet, "o/d", "refs/pr/1"), "http://h/api/datasets/o/d/revision/refs%2Fpr%2F1?blobs=true");
        assert_eq!(file("http://h", Kind::Model, "o/m", "main", "a b/c#1.bin"), "http://h/o/m/resolve/main/a%20b/c%231.bin");
        assert_eq!(file("http://h", Kind::DataSet, "o/d", "v1", "é"), "http://h/datasets/o/d/resolve/v1/%C3%A9");
    }

    #[test]
    fn redirects_lead_where_they_say() {
        let from = "https://h:8/o/m/resolve/main/f?x=/y";
        for (location, to) in [
            ("https://cdn.example/a?b=c", Some("https://cdn.example/a?b=c")),
            ("//cdn.example/a", Some("https://cdn.example/a")),
            ("/o/new/resolve/main/f", Some("https://h:8/o/new/resolve/main/f")),
            ("g", Some("https://h:8/o/m/resolve/main/g")),
            ("file:///etc/passwd", None),
        ] {
            assert_eq!(redirected(from, location).as_deref(), to, "{location}");
        }
    }

    #[test]
    fn only_the_same_server_sees_a_token() {
        for (from, to, same) in [
            ("https://h/a", "https://H/b", true),
            ("http://h/a", "https://h/b", true),
            ("https://h/a", "http://h/b", false),
            ("https://h/a", "https://h.example/b", false),
            ("http://127.0.0.1:1/a", "http://127.0.0.1:2/a", false),
            ("https://h/a", "https://h@evil.example/a", false),
        ] {
            assert_eq!(is_same_server(from, to), same, "{from} {to}");
        }
    }
}
