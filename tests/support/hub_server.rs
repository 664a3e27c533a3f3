//! A small server on this machine that speaks the hub's endpoints for files. Two test programs include this file.

use std::io::{BufRead, BufReader, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use sha1::Sha1;
use sha2::{Digest, Sha256};

/// The commit of everything the server has.
pub const COMMIT: &str = "0123456789abcdef0123456789abcdef01234567";

/// What the server has and how it misbehaves.
#[derive(Default)]
pub struct Script {
    /// Contents under `owner/name/file`.
    pub files: Vec<(&'static str, Vec<u8>)>,
    /// The same on the branch where the hub keeps data sets as parquet files.
    pub converted: Vec<(&'static str, Vec<u8>)>,
    /// The repository that only a token opens.
    pub private: &'static str,
    /// How many answers with a body of more than 1000 bytes break off in the middle.
    pub cuts: usize,
    /// Pause after every 1000 bytes of a body.
    pub pause: Duration,
    /// Announce the hash of something else.
    pub wrong_hash: bool,
    /// Answer every request with the whole file, as servers do that know no ranges.
    pub whole: bool,
    /// How many requests are answered that the hub is too busy.
    pub busy: usize,
    /// Where large files are: requests for them are sent to this other server.
    pub storage: Option<String>,
    /// Tell of the bytes that arrive no more than where they begin, and then send nothing.
    pub silent: bool,
    /// Whether a token came along, for every request for a file.
    pub tokens: Vec<bool>,
    /// The ranges asked for.
    pub ranges: Vec<String>,
}

/// Starts a server, which ends with the test's process. Returns its address and what it has.
pub fn serve(script: Script) -> (String, Arc<Mutex<Script>>) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = format!("http://{}", listener.local_addr().unwrap());
    let script = Arc::new(Mutex::new(script));
    let shared = Arc::clone(&script);
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            // A client that hangs up early is its own affair.
            _ = answer(&mut stream.unwrap(), &shared);
        }
    });
    (address, script)
}

fn hexadecimal(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn answer(stream: &mut TcpStream, script: &Mutex<Script>) -> std::io::Result<()> {
    let mut reader = BufReader::new(stream.try_clone()?);
    let (mut line, mut range, mut token) = (String::new(), None, false);
    reader.read_line(&mut line)?;
    let path = line.split(' ').nth(1).unwrap_or_default().to_owned();
    let is_head = line.starts_with("HEAD ");
    loop {
        let mut header = String::new();
        reader.read_line(&mut header)?;
        let header = header.trim().to_lowercase();
        if header.is_empty() {
            break;
        }
        if let Some(value) = header.strip_prefix("range: bytes=") {
            range = Some(value.to_owned());
        }
        token |= header == "authorization: bearer secret";
    }
    let mut script = script.lock().unwrap();
    let mut status = |code: &str| write!(stream, "HTTP/1.1 {code}\r\ncontent-length: 0\r\nconnection: close\r\n\r\n");
    if !script.private.is_empty() && path.contains(script.private) && !token {
        return status("401 Unauthorized");
    }
    let branch = |script: &Script| if path.contains("refs%2Fconvert%2Fparquet") { script.converted.clone() } else { script.files.clone() };
    if script.busy > 0 {
        script.busy -= 1;
        return status("503 Service Unavailable");
    }
    if let Some(repository) = path.strip_prefix("/api/models/").or_else(|| path.strip_prefix("/api/datasets/")) {
        let name = repository.split("/revision/").next().unwrap_or_default();
        let files = branch(&script);
        let files: Vec<_> = files
            .iter()
            .filter_map(|(file, content)| Some((file.strip_prefix(name)?.strip_prefix('/')?, content.len())))
            .map(|(file, size)| serde_json::json!({ "rfilename": file, "size": size }))
            .collect();
        if files.is_empty() {
            return status("404 Not Found");
        }
        let body = serde_json::json!({ "sha": COMMIT, "siblings": files }).to_string();
        return write!(stream, "HTTP/1.1 200 OK\r\ncontent-length: {}\r\nconnection: close\r\n\r\n{body}", body.len());
    }
    let wanted = path.trim_start_matches("/datasets").trim_start_matches('/').split('/').collect::<Vec<_>>();
    let wanted =
        wanted.iter().enumerate().filter(|(index, _)| ![2, 3].contains(index)).map(|(_, part)| *part).collect::<Vec<_>>().join("/");
    let Some((_, content)) = branch(&script).into_iter().find(|(file, _)| *file == wanted) else {
        return status("404 Not Found");
    };
    let range = range.unwrap_or_else(|| "0-".to_owned());
    let (start, end) = range.split_once('-').unwrap();
    let start: usize = start.parse().unwrap();
    let end = end.parse().map_or(content.len(), |end: usize| end + 1).min(content.len());
    if !is_head {
        script.ranges.push(range);
    }
    // Large files are known by their SHA-256, small ones by git's hash.
    let mut tag = if content.len() > 1000 {
        hexadecimal(&Sha256::digest(&content))
    } else {
        hexadecimal(&Sha1::new().chain_update(format!("blob {}\0", content.len())).chain_update(&content).finalize())
    };
    if script.wrong_hash {
        tag.replace_range(..4, "0000");
    }
    let start = if script.whole { 0 } else { start };
    let body = &content[start..end];
    script.tokens.push(token);
    if let Some(storage) = script.storage.as_ref().filter(|_| content.len() > 1000) {
        return write!(
            stream,
            "HTTP/1.1 302 Found\r\nlocation: {storage}{path}\r\netag: \"other\"\r\nx-linked-etag: \"{tag}\"\r\n\
             x-linked-size: {}\r\nx-repo-commit: {COMMIT}\r\ncontent-length: 0\r\nconnection: close\r\n\r\n",
            content.len(),
        );
    }
    write!(
        stream,
        "HTTP/1.1 206 Partial Content\r\netag: \"{tag}\"\r\nx-repo-commit: {COMMIT}\r\ncontent-range: bytes {start}-{}/{}\r\n\
         content-length: {}\r\nconnection: close\r\n\r\n",
        end.max(1) - 1,
        content.len(),
        body.len()
    )?;
    if is_head {
        return Ok(());
    }
    if script.silent {
        drop(script);
        std::thread::sleep(Duration::from_secs(120));
        return Ok(());
    }
    let cut = script.cuts > 0 && body.len() > 1000;
    script.cuts -= usize::from(cut);
    let pause = script.pause;
    drop(script);
    for part in if cut { &body[..body.len() / 2] } else { body }.chunks(1000) {
        stream.write_all(part)?;
        std::thread::sleep(pause);
    }
    Ok(())
}
