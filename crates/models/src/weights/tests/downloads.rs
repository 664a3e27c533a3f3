//! The hub's client against a small server on this machine.

use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::{Arc, Mutex};

use sha1::Sha1;
use sha2::{Digest, Sha256};

use super::*;

const COMMIT: &str = "0123456789abcdef0123456789abcdef01234567";

/// What the server has and how it misbehaves.
#[derive(Default)]
struct Script {
    /// Contents under `owner/name/file`.
    files: Vec<(&'static str, Vec<u8>)>,
    /// The repository that only a token opens.
    private: &'static str,
    /// How many answers with a body of more than 1000 bytes break off in the middle.
    cuts: usize,
    /// Send the whole file when the rest of it is asked for.
    whole: bool,
    /// Announce the hash of something else.
    wrong_hash: bool,
    /// The ranges asked for.
    ranges: Vec<String>,
}

fn hexadecimal(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn answer(stream: &mut TcpStream, script: &Mutex<Script>) -> std::io::Result<()> {
    let mut reader = BufReader::new(stream.try_clone()?);
    let (mut line, mut range, mut token) = (String::new(), None, false);
    reader.read_line(&mut line)?;
    let path = line.split(' ').nth(1).unwrap_or_default().to_owned();
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
    if let Some(repository) = path.strip_prefix("/api/models/").or_else(|| path.strip_prefix("/api/datasets/")) {
        let name = repository.split("/revision/").next().unwrap_or_default();
        let converted = repository.ends_with("refs%2Fconvert%2Fparquet");
        let files: Vec<_> = script
            .files
            .iter()
            .filter_map(|(file, _)| file.strip_prefix(name)?.strip_prefix('/'))
            .filter(|file| repository.starts_with("o/own") || file.ends_with(".parquet") == converted)
            .map(|file| serde_json::json!({ "rfilename": file }))
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
    let Some((_, content)) = script.files.iter().find(|(file, _)| *file == wanted).cloned() else {
        return status("404 Not Found");
    };
    let range = range.unwrap_or_else(|| "0-".to_owned());
    let (start, end) = range.split_once('-').unwrap();
    let start: usize = start.parse().unwrap();
    let end = end.parse().map_or(content.len(), |end: usize| end + 1).min(content.len());
    if end > 1 {
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
    write!(
        stream,
        "HTTP/1.1 206 Partial Content\r\netag: \"{tag}\"\r\nx-repo-commit: {COMMIT}\r\ncontent-range: bytes {start}-{}/{}\r\n\
         content-length: {}\r\nconnection: close\r\n\r\n",
        end.max(1) - 1,
        content.len(),
        body.len()
    )?;
    let cut = script.cuts > 0 && body.len() > 1000;
    script.cuts -= usize::from(cut);
    stream.write_all(if cut { &body[..body.len() / 2] } else { body })
}

/// Starts a server, which ends with the test's process.
fn serve(script: Script) -> (String, Arc<Mutex<Script>>) {
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

fn content() -> Vec<u8> {
    fs::read(golden("llama.gguf")).unwrap()
}

fn model() -> Vec<(&'static str, Vec<u8>)> {
    vec![("o/m/config.json", b"{}".to_vec()), ("o/m/tokenizer.json", b"{ }".to_vec()), ("o/m/model.safetensors", content())]
}

fn settings(cache: &std::path::Path, endpoint: &str) -> HubSettings {
    HubSettings { endpoint: endpoint.to_owned(), ..HubSettings::new(cache.to_owned()) }
}

fn fetch(settings: HubSettings, id: &str) -> Result<PathBuf, HubError> {
    Hub::new(settings).unwrap().model(id, &mut |_, _, _| ())
}

#[test]
fn a_model_is_downloaded_once_and_served_offline() {
    let cache = tempfile::tempdir().unwrap();
    let (endpoint, script) = serve(Script { files: model(), ..Script::default() });
    let online = settings(cache.path(), &endpoint);
    let offline = HubSettings { offline: true, ..online.clone() };
    assert_sentence(&fetch(offline.clone(), "o/m").unwrap_err().to_string(), "o/m@main is not in the cache");
    let folder = fetch(online.clone(), "o/m").unwrap();
    assert_eq!(fs::read(folder.join("model.safetensors")).unwrap(), content());
    assert!(folder.join("tokenizer.json").exists() && folder.ends_with(COMMIT));
    let asked = script.lock().unwrap().ranges.len();
    assert_eq!(fetch(online.clone(), "o/m").unwrap(), folder);
    assert_eq!(script.lock().unwrap().ranges.len(), asked, "nothing is downloaded again");
    assert_eq!(fetch(offline, "o/m").unwrap(), folder);
    // A hub that cannot be reached is as good as none.
    let unreachable = settings(cache.path(), "http://127.0.0.1:1");
    assert_eq!(fetch(unreachable.clone(), "o/m").unwrap(), folder);
    assert_sentence(&fetch(unreachable, "o/other").unwrap_err().to_string(), "could not be downloaded from http://127.0.0.1:1");
}

#[test]
fn a_cut_download_is_resumed() {
    let cache = tempfile::tempdir().unwrap();
    let (endpoint, script) = serve(Script { files: model(), cuts: 1, ..Script::default() });
    let once = HubSettings { retries: 0, ..settings(cache.path(), &endpoint) };
    assert_sentence(&fetch(once.clone(), "o/m").unwrap_err().to_string(), "model.safetensors of o/m@main could not be downloaded");
    let folder = fetch(once, "o/m").unwrap();
    assert_eq!(fs::read(folder.join("model.safetensors")).unwrap(), content());
    let resumed = format!("{}-", content().len() / 2);
    assert!(script.lock().unwrap().ranges.contains(&resumed), "the second half only");
    // A server that sends the whole file again makes the part too long: it is thrown away, and the download starts anew.
    let cache = tempfile::tempdir().unwrap();
    let (endpoint, script) = serve(Script { files: model(), cuts: 1, whole: true, ..Script::default() });
    let once = HubSettings { retries: 0, ..settings(cache.path(), &endpoint) };
    fetch(once.clone(), "o/m").unwrap_err();
    let folder = fetch(once, "o/m").unwrap();
    assert_eq!(fs::read(folder.join("model.safetensors")).unwrap(), content());
    assert!(script.lock().unwrap().ranges.contains(&resumed), "the rest was asked for first");
}

#[test]
fn what_the_hub_refuses_is_said_in_one_sentence() {
    let cache = tempfile::tempdir().unwrap();
    let (endpoint, _) = serve(Script { files: model(), private: "o/m", ..Script::default() });
    let mut settings = settings(cache.path(), &endpoint);
    assert_sentence(&fetch(settings.clone(), "o/none").unwrap_err().to_string(), "o/none@main does not exist on http");
    assert_sentence(&fetch(settings.clone(), "o/m@step1").unwrap_err().to_string(), "(401): it is private, gated or absent; set HF_TOKEN");
    settings.token = Some("wrong".to_owned());
    assert_sentence(&fetch(settings.clone(), "o/m").unwrap_err().to_string(), "the token of HF_TOKEN is not accepted");
    settings.token = Some("secret".to_owned());
    fetch(settings.clone(), "o/m").unwrap();
    for id in ["", "a/b/c", "../x", "o/m@../..", "o m"] {
        assert_sentence(&fetch(settings.clone(), id).unwrap_err().to_string(), "is not the id of a repository");
    }
}

#[test]
fn a_wrong_hash_is_refused_and_forgotten() {
    let cache = tempfile::tempdir().unwrap();
    let (endpoint, script) = serve(Script { files: model(), wrong_hash: true, ..Script::default() });
    let settings = settings(cache.path(), &endpoint);
    assert_sentence(&fetch(settings.clone(), "o/m").unwrap_err().to_string(), "config.json of o/m@main arrived damaged twice: its hash is");
    script.lock().unwrap().wrong_hash = false;
    fetch(settings, "o/m").unwrap();
}

#[test]
fn a_data_set_is_its_parquet_files() {
    let cache = tempfile::tempdir().unwrap();
    let file = |name: &'static str, content: &str| (name, content.as_bytes().to_vec());
    let files = vec![
        file("o/d/README.md", "x"),
        file("o/d/default/test/0000.parquet", "PAR1"),
        file("o/d/default/train/0000.parquet", "PAR2"),
        file("o/own/README.md", "x"),
        file("o/own/data/test-0.parquet", "PAR3"),
        file("o/bare/README.md", "x"),
    ];
    let (endpoint, _) = serve(Script { files, ..Script::default() });
    let online = settings(cache.path(), &endpoint);
    // A data set without parquet files of its own has those that the hub made of it, on another branch; also without a network.
    for settings in [online.clone(), HubSettings { offline: true, ..online.clone() }, settings(cache.path(), "http://127.0.0.1:1")] {
        let offline = settings.offline;
        let hub = Hub::new(settings).unwrap();
        if offline {
            assert_sentence(&hub.dataset("o/own", &|_| true, &mut |_, _, _| ()).unwrap_err().to_string(), "o/own@main is not in the cache");
        }
        let found = hub.dataset("o/d", &|name| name.contains("test"), &mut |_, _, _| ()).unwrap();
        assert_eq!(found.len(), 1);
        assert_eq!((found[0].0.as_str(), fs::read(&found[0].1).unwrap()), ("default/test/0000.parquet", b"PAR1".to_vec()));
        assert!(found[0].1.starts_with(cache.path().join("datasets--o--d/snapshots").join(COMMIT)));
    }
    let hub = Hub::new(online).unwrap();
    let own = hub.dataset("o/own", &|_| true, &mut |_, _, _| ()).unwrap();
    assert_eq!((own.len(), fs::read(&own[0].1).unwrap()), (1, b"PAR3".to_vec()));
    let message = |id: &str, part: &str| hub.dataset(id, &|name| name.contains(part), &mut |_, _, _| ()).unwrap_err().to_string();
    assert_sentence(&message("o/d", "absent"), "o/d@refs/convert/parquet has no parquet files that were asked for");
    assert_sentence(&message("o/bare", ""), "o/bare@main has no parquet files, and the hub has made none of it");
    assert_sentence(&message("o/absent", ""), "o/absent@main does not exist on http");
}

#[test]
fn every_revision_is_known_without_a_network() {
    let cache = tempfile::tempdir().unwrap();
    let (endpoint, _) = serve(Script { files: model(), ..Script::default() });
    let online = settings(cache.path(), &endpoint);
    // The second revision is the same commit: nothing is downloaded for it.
    let folders = ["o/m", "o/m@v1", "o/m@refs/pr/1"].map(|id| fetch(online.clone(), id).unwrap());
    let offline = HubSettings { offline: true, ..online.clone() };
    for (id, folder) in ["o/m", "o/m@v1", "o/m@refs/pr/1"].iter().zip(&folders) {
        assert_eq!(&fetch(offline.clone(), id).unwrap(), folder);
    }
    assert_eq!(fetch(offline.clone(), &format!("o/m@{COMMIT}")).unwrap(), folders[0]);
    // A link whose blob is gone is made again.
    let blob = fs::canonicalize(folders[0].join("config.json")).unwrap();
    fs::remove_file(&blob).unwrap();
    fetch(online.clone(), "o/m").unwrap();
    assert!(blob.exists());
    // Another link to a blob that is there survives a move of the cache.
    fs::remove_file(folders[0].join("config.json")).unwrap();
    fetch(online.clone(), "o/m").unwrap();
    let moved = cache.path().with_extension("moved");
    fs::rename(cache.path(), &moved).unwrap();
    assert_eq!(fs::read(moved.join("models--o--m/snapshots").join(COMMIT).join("config.json")).unwrap(), b"{}");
    fs::rename(&moved, cache.path()).unwrap();
    // A cache that lacks the weights says so, and does not say that the hub has none.
    fs::remove_file(folders[0].join("model.safetensors")).unwrap();
    assert_sentence(&fetch(offline, "o/m").unwrap_err().to_string(), "o/m with its weights, at revision main, is not in the cache");
    let unreachable = settings(cache.path(), "http://127.0.0.1:1");
    assert_sentence(&fetch(unreachable, "o/m").unwrap_err().to_string(), "the hub cannot be reached, and the cache does not have it");
}

#[test]
fn settings_come_from_the_usual_variables() {
    let settings =
        |pairs: &[(&str, &str)]| HubSettings::from_variables(&|name| pairs.iter().find(|pair| pair.0 == name).map(|pair| pair.1.into()));
    let all = settings(&[("HF_HOME", "/h"), ("HF_TOKEN", " t "), ("HF_HUB_OFFLINE", "1"), ("HF_ENDPOINT", "http://x/")]);
    assert_eq!((all.cache, all.token.as_deref(), all.offline, all.endpoint.as_str()), ("/h/hub".into(), Some("t"), true, "http://x"));
    let other = settings(&[("HF_HUB_CACHE", "/c"), ("HF_HOME", "/absent"), ("HF_HUB_OFFLINE", "0")]);
    assert_eq!((other.cache, other.token, other.offline, other.endpoint.as_str()), ("/c".into(), None, false, hub::ENDPOINT));
}
