//! Requests to the hub: redirects, the token, and what an answer says of a file.

use std::io::Read;
use std::time::Duration;

use ureq::http::{HeaderMap, Response, header};
use ureq::typestate::WithoutBody;
use ureq::{Agent, Body, RequestBuilder};

use super::address::{is_same_server, redirected};

/// To reach a server.
const CONNECT: Duration = Duration::from_secs(10);
/// Without a byte: the connection counts as broken.
const SILENCE: Duration = Duration::from_secs(30);
/// More redirects lead in a circle.
const MOST_REDIRECTS: usize = 10;
/// No listing of a repository is longer.
const MOST_TEXT: u64 = 256 << 20;

/// The header that tells the commit of a revision.
const COMMIT: &str = "x-repo-commit";
/// The header that tells the tag of a file that is elsewhere.
const LINKED_TAG: &str = "x-linked-etag";

/// What went wrong with a request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Fault {
    /// The answer has a status that is no success.
    Status(u16),
    /// There was no answer, or none that can be understood.
    Transport(String),
}

impl Fault {
    /// Whether the same request may succeed a moment later.
    pub(super) fn may_pass(&self) -> bool {
        match self {
            Self::Status(status) => [408, 429].contains(status) || *status >= 500,
            Self::Transport(_) => true,
        }
    }
}

impl From<ureq::Error> for Fault {
    fn from(error: ureq::Error) -> Self {
        Self::Transport(crate::weights::printable(&error.to_string()))
    }
}

/// What the hub says of a file before it is downloaded.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Metadata {
    /// The commit that the revision is.
    pub(super) commit: String,
    /// The tag of the content, by which the cache knows it.
    pub(super) tag: String,
    /// Its length, if the hub tells it.
    pub(super) size: Option<u64>,
}

/// A client. Cheap to clone: connections are shared.
#[derive(Debug, Clone)]
pub(super) struct Client {
    agent: Agent,
    token: Option<String>,
}

impl Client {
    pub(super) fn new(token: Option<String>) -> Self {
        let config = Agent::config_builder()
            .http_status_as_error(false)
            .max_redirects(0)
            .max_redirects_will_error(false)
            .timeout_connect(Some(CONNECT))
            .timeout_recv_response(Some(SILENCE))
            .timeout_per_read(Some(SILENCE))
            .user_agent(concat!("basin-volume/", env!("CARGO_PKG_VERSION")))
            // Lengths and ranges are those of the file itself.
            .accept_encoding("identity");
        Self { agent: config.build().new_agent(), token }
    }

    /// The text at an address.
    pub(super) fn text(&self, address: &str) -> Result<Vec<u8>, Fault> {
        let answer = succeeded(self.follow(address, &|place| self.agent.get(place), &|_, _| false)?)?;
        let mut text = Vec::new();
        let read = answer.into_body().into_reader().take(MOST_TEXT).read_to_end(&mut text);
        read.map_err(|error| Fault::Transport(crate::weights::printable(&error.to_string())))?;
        Ok(text)
    }

    /// A file from byte `start` on.
    pub(super) fn open(&self, address: &str, start: u64) -> Result<Response<Body>, Fault> {
        let ask = |place: &str| {
            let request = self.agent.get(place);
            if start > 0 { request.header(header::RANGE, format!("bytes={start}-")) } else { request }
        };
        succeeded(self.follow(address, &ask, &|_, _| false)?)
    }

    /// What the hub says of a file: its own answer, not that of a storage to which it redirects.
    pub(super) fn metadata(&self, address: &str) -> Result<Metadata, Fault> {
        // Redirects on the same server may be of repositories that were renamed; an endpoint that says nothing stands before another.
        let is_told = |headers: &HeaderMap, is_same: bool| headers.contains_key(COMMIT) && (!is_same || headers.contains_key(LINKED_TAG));
        let answer = self.follow(address, &|place| self.agent.head(place), &is_told)?;
        let is_redirect = answer.status().is_redirection();
        let answer = if is_redirect { answer } else { succeeded(answer)? };
        described(answer.headers(), is_redirect)
    }

    /// Follows redirects until `ends`, which is given the headers of one and whether it stays on its server. The token goes to the server
    /// that was asked, and to no other that it names.
    fn follow(
        &self,
        address: &str,
        ask: &dyn Fn(&str) -> RequestBuilder<WithoutBody>,
        ends: &dyn Fn(&HeaderMap, bool) -> bool,
    ) -> Result<Response<Body>, Fault> {
        if !["http://", "https://"].iter().any(|scheme| address.starts_with(scheme)) {
            return Err(Fault::Transport("the address of a hub (HF_ENDPOINT) begins with https:// or http://".to_owned()));
        }
        if self.token.as_ref().is_some_and(|token| !token.bytes().all(|byte| byte.is_ascii_graphic())) {
            return Err(Fault::Transport(
                "the token (HF_TOKEN, or the file of a login) has a space or another character of no token".to_owned(),
            ));
        }
        let (mut place, mut is_trusted) = (address.to_owned(), true);
        for _ in 0..=MOST_REDIRECTS {
            let mut request = ask(&place);
            if let Some(token) = self.token.as_ref().filter(|_| is_trusted) {
                request = request.header(header::AUTHORIZATION, format!("Bearer {token}"));
            }
            let answer = request.call()?;
            if !answer.status().is_redirection() {
                return Ok(answer);
            }
            let next = text(answer.headers(), "location").and_then(|location| redirected(&place, &location));
            let next = next.ok_or_else(|| Fault::Transport("it redirects to nowhere".to_owned()))?;
            let is_same = is_same_server(&place, &next);
            if ends(answer.headers(), is_same) {
                return Ok(answer);
            }
            is_trusted &= is_same;
            place = next;
        }
        Err(Fault::Transport("it redirects in a circle".to_owned()))
    }
}

fn succeeded(answer: Response<Body>) -> Result<Response<Body>, Fault> {
    if answer.status().is_success() { Ok(answer) } else { Err(Fault::Status(answer.status().as_u16())) }
}

fn text(headers: &HeaderMap, name: &str) -> Option<String> {
    headers.get(name)?.to_str().ok().map(str::to_owned)
}

/// Commit, tag and size of an answer. The length of a redirect's own body is not the file's.
fn described(headers: &HeaderMap, is_redirect: bool) -> Result<Metadata, Fault> {
    let lacks = |what: &str| Fault::Transport(format!("its answer tells no {what} of the file: is this a hub?"));
    let commit = text(headers, COMMIT).ok_or_else(|| lacks("commit"))?;
    let tag = text(headers, LINKED_TAG).or_else(|| text(headers, "etag")).ok_or_else(|| lacks("tag"))?;
    let tag = tag.trim_start_matches("W/").trim_matches('"').to_owned();
    let own = text(headers, "content-length").filter(|_| !is_redirect);
    let size = text(headers, "x-linked-size").or(own).and_then(|size| size.parse().ok());
    Ok(Metadata { commit, tag, size })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_linked_file_is_described_by_its_own_headers() {
        let mut headers = HeaderMap::new();
        for (name, value) in [("x-repo-commit", "c"), ("etag", "\"small\""), ("content-length", "12")] {
            headers.insert(name, value.parse().unwrap());
        }
        let plain = described(&headers, false).unwrap();
        assert_eq!(plain, Metadata { commit: "c".to_owned(), tag: "small".to_owned(), size: Some(12) });
        assert_eq!(described(&headers, true).unwrap().size, None);
        headers.insert("x-linked-etag", "W/\"large\"".parse().unwrap());
        headers.insert("x-linked-size", "7000000000".parse().unwrap());
        let linked = described(&headers, true).unwrap();
        assert_eq!((linked.tag.as_str(), linked.size), ("large", Some(7_000_000_000)));
        headers.remove("x-repo-commit");
        assert!(matches!(described(&headers, true), Err(Fault::Transport(problem)) if problem.contains("no commit")));
    }

    #[test]
    fn what_may_pass_is_tried_again() {
        assert!(Fault::Status(503).may_pass() && Fault::Status(429).may_pass() && Fault::Transport(String::new()).may_pass());
        assert!(!Fault::Status(404).may_pass() && !Fault::Status(403).may_pass());
    }
}
