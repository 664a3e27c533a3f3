//! The hub's client against a small server on this machine.

use std::fs;

use hub_server::{COMMIT, Script, serve};

use super::*;

#[path = "../../../../../tests/support/hub_server.rs"]
mod hub_server;

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
    Hub::new(settings).model(id, &mut |_, _, _| true)
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
fn a_data_set_is_its_own_parquet_files_or_those_of_the_hub() {
    let cache = tempfile::tempdir().unwrap();
    let own = vec![("o/own/README.md", b"x".to_vec()), ("o/own/b.parquet", b"PAR1".to_vec()), ("o/own/a.parquet", b"PAR2".to_vec())];
    let files = [own, vec![("o/d/data.jsonl", b"{}".to_vec()), ("o/none/data.jsonl", b"{}".to_vec())]].concat();
    let converted = vec![("o/own/c.parquet", b"PAR3".to_vec()), ("o/d/x/test/0000.parquet", b"PAR4".to_vec())];
    let (endpoint, _) = serve(Script { files, converted, ..Script::default() });
    let online = settings(cache.path(), &endpoint);
    for settings in [online.clone(), HubSettings { offline: true, ..online.clone() }] {
        let hub = Hub::new(settings);
        let get = |id: &str, name: &str| {
            let found = hub.dataset(id).unwrap();
            assert_eq!(found.commit(), COMMIT);
            (found.names().to_vec(), fs::read(found.get(name, &mut |_, _, _| true).unwrap()).unwrap())
        };
        let (names, content) = get("o/own", "a.parquet");
        assert!(names.contains(&"a.parquet".to_owned()) && !names.contains(&"c.parquet".to_owned()));
        assert_eq!(content, b"PAR2");
        assert_eq!(get("o/d", "x/test/0000.parquet"), (vec!["x/test/0000.parquet".to_owned()], b"PAR4".to_vec()));
    }
    let hub = Hub::new(online.clone());
    let refusal = |hub: &Hub, id: &str| hub.dataset(id).err().unwrap().to_string();
    assert_sentence(&refusal(&hub, "o/none"), "o/none@refs/convert/parquet does not exist");
    assert_sentence(&refusal(&hub, "o/d@v1"), "o/d@v1 has no parquet files");
    assert_sentence(&refusal(&hub, "o/absent"), "o/absent@main does not exist");
    let offline = Hub::new(HubSettings { offline: true, ..online });
    assert_sentence(&refusal(&offline, "o/absent"), "o/absent@main is not in the cache");
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
    assert_sentence(&fetch(offline, "o/m").unwrap_err().to_string(), "of o/m@main is not in the cache");
    let unreachable = settings(cache.path(), "http://127.0.0.1:1");
    assert_sentence(&fetch(unreachable, "o/m").unwrap_err().to_string(), "the hub cannot be reached, and the cache has no");
}

#[test]
fn a_tokenizer_comes_without_the_weights() {
    let cache = tempfile::tempdir().unwrap();
    let (endpoint, _) = serve(Script { files: [model(), vec![("o/bare/config.json", b"{}".to_vec())]].concat(), ..Script::default() });
    let online = settings(cache.path(), &endpoint);
    let hub = Hub::new(online.clone());
    let folder = hub.tokenizer("o/m", &mut |_, _, _| true).unwrap();
    assert!(folder.join("tokenizer.json").exists() && folder.join("config.json").exists() && !folder.join("model.safetensors").exists());
    assert_sentence(&hub.tokenizer("o/bare", &mut |_, _, _| true).unwrap_err().to_string(), "o/bare@main has no tokenizer.json");
    let offline = HubSettings { offline: true, ..online };
    assert_sentence(&fetch(offline, "o/m").unwrap_err().to_string(), "of o/m@main is not in the cache");
}

#[test]
fn settings_come_from_the_usual_variables() {
    let settings =
        |pairs: &[(&str, &str)]| HubSettings::from_variables(&|name| pairs.iter().find(|pair| pair.0 == name).map(|pair| pair.1.into()));
    let all = settings(&[("HF_HOME", "/h"), ("HF_TOKEN", " t "), ("HF_HUB_OFFLINE", "1"), ("HF_ENDPOINT", "http://x/")]);
    assert_eq!((all.cache, all.token.as_deref(), all.offline, all.endpoint.as_str()), ("/h/hub".into(), Some("t"), true, "http://x"));
    let other = settings(&[("HF_HUB_CACHE", "/c"), ("HF_HOME", "/absent"), ("HF_HUB_OFFLINE", "0")]);
    assert_eq!((other.cache, other.token, other.offline, other.endpoint.as_str()), ("/c".into(), None, false, hub::ENDPOINT));
    for (given, cache) in [
        ("~/x", "/me/x/hub"),
        ("$SCR/x", "/scratch/x/hub"),
        ("${SCR}-x", "/scratch-x/hub"),
        ("$ABSENT/x", "$ABSENT/x/hub"),
        ("/a~b", "/a~b/hub"),
    ] {
        assert_eq!(settings(&[("HF_HOME", given), ("HOME", "/me"), ("SCR", "/scratch")]).cache, std::path::Path::new(cache), "{given}");
    }
}

#[test]
fn a_token_stays_with_the_hub() {
    let cache = tempfile::tempdir().unwrap();
    let (storage, other) = serve(Script { files: model(), ..Script::default() });
    let (endpoint, script) = serve(Script { files: model(), private: "o/m", storage: Some(storage), ..Script::default() });
    let settings = HubSettings { token: Some("secret".to_owned()), ..settings(cache.path(), &endpoint) };
    let folder = fetch(settings, "o/m").unwrap();
    assert_eq!(fs::read(folder.join("model.safetensors")).unwrap(), content());
    assert!(script.lock().unwrap().tokens.iter().all(|token| *token), "the hub itself is told who asks");
    assert_eq!(other.lock().unwrap().tokens, [false], "the storage, which has the large file only, is not");
}

#[test]
fn a_busy_hub_is_asked_again() {
    let cache = tempfile::tempdir().unwrap();
    let (endpoint, script) = serve(Script { files: model(), busy: 2, ..Script::default() });
    fetch(settings(cache.path(), &endpoint), "o/m").unwrap();
    script.lock().unwrap().busy = 1;
    let once = HubSettings { retries: 0, ..settings(cache.path(), &endpoint) };
    // What is here is used then, as without a network.
    fetch(once.clone(), "o/m").unwrap();
    script.lock().unwrap().busy = 1;
    assert_sentence(&fetch(once, "o/n").unwrap_err().to_string(), "o/n@main could not be downloaded from http");
}

#[test]
fn a_bad_line_is_taken_up_again_as_long_as_it_brings_something() {
    let cache = tempfile::tempdir().unwrap();
    // Every answer breaks off in the middle of what is left: more often than anything is tried again without progress.
    let (endpoint, script) = serve(Script { files: model(), cuts: 3, ..Script::default() });
    let settings = HubSettings { retries: 1, ..settings(cache.path(), &endpoint) };
    let folder = fetch(settings, "o/m").unwrap();
    assert_eq!(fs::read(folder.join("model.safetensors")).unwrap(), content());
    let starts: Vec<usize> =
        script.lock().unwrap().ranges.iter().filter_map(|range| range.strip_suffix('-')?.parse().ok()).filter(|&start| start > 0).collect();
    assert_eq!(starts.len(), 3, "{starts:?}");
    assert!(starts.is_sorted());
}

#[test]
fn a_silent_server_keeps_nobody() {
    let cache = tempfile::tempdir().unwrap();
    let (endpoint, script) = serve(Script { files: model(), silent: true, ..Script::default() });
    let began = std::time::Instant::now();
    let hub = Hub::new(settings(cache.path(), &endpoint));
    let stopped = hub.model("o/m", &mut |_, _, _| began.elapsed().as_millis() < 300).unwrap_err();
    assert!(matches!(stopped, HubError::Interrupted) && began.elapsed().as_secs() < 10, "{stopped}");
    drop(script);
}

#[test]
fn two_downloads_of_the_same_file_are_one() {
    let cache = tempfile::tempdir().unwrap();
    let pause = std::time::Duration::from_millis(20);
    let (endpoint, script) = serve(Script { files: model(), pause, ..Script::default() });
    let settings = settings(cache.path(), &endpoint);
    let folders = std::thread::scope(|scope| {
        let both = [0, 1].map(|_| scope.spawn(|| fetch(settings.clone(), "o/m").unwrap()));
        both.map(|thread| thread.join().unwrap())
    });
    assert_eq!(folders[0], folders[1]);
    assert_eq!(fs::read(folders[0].join("model.safetensors")).unwrap(), content());
    let names: Vec<String> = fs::read_dir(cache.path().join("models--o--m/blobs"))
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();
    assert!(names.len() == 3 && !names.iter().any(|name| name.ends_with(".part")), "{names:?}");
    assert_eq!(script.lock().unwrap().ranges.len(), 3, "each file once");
}

#[test]
fn an_adapter_and_the_state_of_an_optimizer_are_fetched() {
    let cache = tempfile::tempdir().unwrap();
    let adapter = vec![("o/a/adapter_config.json", b"{}".to_vec()), ("o/a/adapter_model.safetensors", content())];
    let state = vec![("o/m/mp_rank_00_model_states.pt", content()), ("o/m/optimizer.txt", b"no".to_vec())];
    let (endpoint, _) = serve(Script { files: [model(), adapter, state].concat(), ..Script::default() });
    let online = settings(cache.path(), &endpoint);
    let folder = fetch(online.clone(), "o/a").unwrap();
    assert!(folder.join("adapter_config.json").exists() && folder.join("adapter_model.safetensors").exists());
    let folder = fetch(online.clone(), "o/m").unwrap();
    let state = folder.join("mp_rank_00_model_states.pt");
    assert!(!state.exists(), "a state is only fetched when somebody asks for it");
    for settings in [online.clone(), HubSettings { offline: true, ..online.clone() }] {
        let hub = Hub::new(settings);
        assert_eq!(hub.optimizer(&format!("o/m@{COMMIT}"), &mut |_, _, _| true).unwrap(), Some(folder.clone()));
        assert_eq!(hub.optimizer("o/a", &mut |_, _, _| true).unwrap(), None);
        assert_eq!(fs::read(&state).unwrap(), content());
    }
}

#[test]
fn settings_that_cannot_be_are_named() {
    let cache = tempfile::tempdir().unwrap();
    for endpoint in ["huggingface.co", "ht tp://x y", "file:///etc"] {
        let message = fetch(settings(cache.path(), endpoint), "o/m").unwrap_err().to_string();
        assert_sentence(&message, "(HF_ENDPOINT) begins with https:// or http://");
    }
    let token = HubSettings { token: Some("a\nb".to_owned()), ..settings(cache.path(), "http://127.0.0.1:1") };
    assert_sentence(&fetch(token, "o/m").unwrap_err().to_string(), "the token (HF_TOKEN, or the file of a login) has a space");
}

#[test]
fn a_file_of_the_cache_that_broke_off_is_fetched_again() {
    let cache = tempfile::tempdir().unwrap();
    let (endpoint, script) = serve(Script { files: model(), ..Script::default() });
    let settings = settings(cache.path(), &endpoint);
    let path = fetch(settings.clone(), "o/m").unwrap().join("model.safetensors");
    let blob = fs::canonicalize(&path).unwrap();
    fs::write(&blob, &content()[..700]).unwrap();
    fetch(settings.clone(), "o/m").unwrap();
    assert_eq!(fs::read(&path).unwrap(), content());
    // Where no links can be made there is a copy.
    fs::remove_file(&path).unwrap();
    fs::write(&path, b"").unwrap();
    fetch(settings.clone(), "o/m").unwrap();
    assert_eq!(fs::read(&path).unwrap(), content());
    // Without a network nobody knows better.
    fs::write(&blob, &content()[..700]).unwrap();
    fetch(HubSettings { offline: true, ..settings }, "o/m").unwrap();
    assert_eq!(fs::read(&path).unwrap().len(), 700);
    drop(script);
}
