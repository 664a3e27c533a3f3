//! Signals as shells and schedulers send them.

#![cfg(unix)]

mod common;

use std::fs;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::thread::sleep;
use std::time::{Duration, Instant};

use common::golden;

const PATIENCE: Duration = Duration::from_secs(120);

/// A run of rays that lasts for some seconds, with these signals ignored from the start.
fn start(folder: &Path, ignored: &str) -> Child {
    let command = r#"trap "" $IGNORED; exec "$PROGRAM" estimate "$MODEL" --data "$DATA" --samples 4000 --threads 1 --out run"#;
    let command = if ignored.is_empty() { command.trim_start_matches(r#"trap "" $IGNORED; "#) } else { command };
    let child = Command::new("sh")
        .args(["-c", command])
        .env("IGNORED", ignored)
        .env("PROGRAM", env!("CARGO_BIN_EXE_basin-volume"))
        .env("MODEL", golden("small_network"))
        .env("DATA", golden("small_network/inputs.safetensors"))
        .current_dir(folder)
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    let began = Instant::now();
    while lines(folder) < 3 && began.elapsed() < PATIENCE {
        sleep(Duration::from_millis(2));
    }
    child
}

fn lines(folder: &Path) -> usize {
    fs::read_to_string(folder.join("run/samples.jsonl")).map_or(0, |text| text.lines().count())
}

fn send(signal: &str, child: &Child) {
    let sent = Command::new("kill").args([format!("-{signal}"), child.id().to_string()]).status().unwrap();
    assert!(sent.success(), "{signal} was not sent: the run had ended already");
}

/// Whether these tests themselves were started so that they ignore this signal.
fn is_ignored_here(signal: &str) -> bool {
    let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
    let mask = status.lines().find_map(|line| line.strip_prefix("SigIgn:")).and_then(|mask| u64::from_str_radix(mask.trim(), 16).ok());
    let number = ["HUP", "INT"].iter().position(|name| *name == signal);
    number.is_some_and(|number| mask.unwrap_or(0) >> number & 1 == 1)
}

#[test]
fn what_is_ignored_from_the_start_stays_ignored() {
    let folder = tempfile::tempdir().unwrap();
    let mut child = start(folder.path(), "HUP INT");
    send("HUP", &child);
    send("INT", &child);
    assert!(child.wait().unwrap().success());
    assert_eq!(lines(folder.path()), 4000);
}

#[test]
fn every_other_request_to_stop_is_heeded_and_the_same_command_goes_on() {
    // Whoever runs the tests in the background of a script has them ignore some.
    for signal in ["HUP", "INT", "TERM", "USR1", "USR2"].into_iter().filter(|signal| !is_ignored_here(signal)) {
        let folder = tempfile::tempdir().unwrap();
        // One that is ignored leaves the others as they are.
        let mut child = start(folder.path(), if signal == "TERM" { "HUP" } else { "" });
        send(signal, &child);
        assert_eq!(child.wait().unwrap().code(), Some(130), "{signal}");
        let done = lines(folder.path());
        assert!((3..4000).contains(&done), "{signal}: {done}");
        assert!(folder.path().join("run/result.json").is_file());
        let mut child = start(folder.path(), "");
        assert!(child.wait().unwrap().success());
        assert_eq!(lines(folder.path()), 4000);
    }
}
