//! README, changelog and the book of `docs`: links lead somewhere, pages stand in the table of contents, lines are short, and the
//! flags of every command shown are those of the program.

use std::collections::HashMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

/// Characters of a line of prose at most; tables, code and pictures may be wider.
const WIDTH: usize = 100;

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..").canonicalize().unwrap()
}

/// All Markdown files below a folder, in order.
fn pages(folder: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            found.extend(pages(&path));
        } else if path.extension().is_some_and(|extension| extension == "md") {
            found.push(path);
        }
    }
    found.sort();
    found
}

/// README, changelog, and every page of the book.
fn documents() -> Vec<PathBuf> {
    let mut all = vec![root().join("README.md"), root().join("CHANGELOG.md")];
    all.extend(pages(&root().join("docs")));
    all
}

/// The lines, each with whether it is code between fences (the fences too).
fn lines(text: &str) -> Vec<(&str, bool)> {
    let mut inside = false;
    let mut all = Vec::new();
    for line in text.lines() {
        let fence = line.trim_start().starts_with("```");
        inside ^= fence;
        all.push((line, inside || fence));
    }
    all
}

/// The text without fenced blocks and code spans.
fn prose(text: &str) -> String {
    let text: Vec<&str> = lines(text).into_iter().filter(|&(_, code)| !code).map(|(line, _)| line).collect();
    let text = text.join("\n");
    let mut kept = String::new();
    let mut rest = text.as_str();
    while let Some(start) = rest.find('`') {
        kept.push_str(&rest[..start]);
        let ticks = rest[start..].len() - rest[start..].trim_start_matches('`').len();
        let (mark, after) = rest[start..].split_at(ticks);
        rest = after.find(mark).map_or(after, |end| &after[end + ticks..]);
    }
    kept + rest
}

/// What `[text](target)` and pictures lead to.
fn targets(text: &str) -> Vec<String> {
    prose(text).split("](").skip(1).filter_map(|rest| rest.split_once(')')).map(|(target, _)| target.to_owned()).collect()
}

/// The names that headings have as anchors, on GitHub and in the book.
fn anchors(text: &str) -> Vec<String> {
    let mut seen: HashMap<String, usize> = HashMap::new();
    let headings = lines(text).into_iter().filter(|&(line, code)| !code && line.starts_with('#'));
    headings
        .map(|(line, _)| {
            let heading = line.trim_start_matches('#').trim().to_lowercase();
            let name: String = heading.chars().filter(|&c| c.is_alphanumeric() || " -_".contains(c)).collect();
            let name = name.replace(' ', "-");
            let times = seen.entry(name.clone()).or_insert(0);
            *times += 1;
            if *times == 1 { name } else { format!("{name}-{}", *times - 1) }
        })
        .collect()
}

fn is_elsewhere(target: &str) -> bool {
    target.contains("://") || target.starts_with("mailto:")
}

#[test]
fn every_link_leads_somewhere() {
    let docs = root().join("docs");
    let mut faults = Vec::new();
    for page in documents() {
        let text = fs::read_to_string(&page).unwrap();
        for target in targets(&text).iter().filter(|target| !is_elsewhere(target)) {
            let (path, anchor) = target.split_once('#').unwrap_or((target, ""));
            let to = if path.is_empty() { Ok(page.clone()) } else { page.parent().unwrap().join(path).canonicalize() };
            let fault = match to {
                Err(_) => "there is no such file",
                Ok(to) if page.starts_with(&docs) && !to.starts_with(&docs) => "the book has no such page: it ends at docs/",
                Ok(to) if !anchor.is_empty() && !anchors(&fs::read_to_string(&to).unwrap()).iter().any(|name| name == anchor) => {
                    "there is no such heading"
                }
                Ok(_) => continue,
            };
            faults.push(format!("{}: {target}: {fault}", page.display()));
        }
    }
    assert!(faults.is_empty(), "{faults:#?}");
}

#[test]
fn every_page_stands_in_the_table_of_contents() {
    let docs = root().join("docs");
    let contents = docs.join("SUMMARY.md");
    let listed: Vec<PathBuf> = targets(&fs::read_to_string(&contents).unwrap()).iter().map(|target| docs.join(target)).collect();
    let missing: Vec<PathBuf> = pages(&docs).into_iter().filter(|page| *page != contents && !listed.contains(page)).collect();
    assert!(missing.is_empty(), "not in docs/SUMMARY.md: {missing:#?}");
}

#[test]
fn lines_of_prose_are_short() {
    let mut faults = Vec::new();
    for page in pages(&root().join("docs")) {
        for (at, (line, code)) in lines(&fs::read_to_string(&page).unwrap()).into_iter().enumerate() {
            let may_be_wide = code || line.starts_with("    ") || line.trim_start().starts_with('|') || line.contains("](");
            if !may_be_wide && line.chars().count() > WIDTH {
                faults.push(format!("{}:{}: {} characters", page.display(), at + 1, line.chars().count()));
            }
        }
    }
    assert!(faults.is_empty(), "{faults:#?}");
}

#[test]
fn commands_have_flags_that_the_program_knows() {
    let mut helps: HashMap<String, String> = HashMap::new();
    let mut faults = Vec::new();
    for page in documents() {
        let text = fs::read_to_string(&page).unwrap().replace("\\\n", " ");
        for (line, _) in lines(&text).into_iter().filter(|&(_, code)| code) {
            let line = line.split(" #").next().unwrap_or_default();
            let Some(command) = line.trim_start().strip_prefix("basin-volume ") else { continue };
            let words: Vec<&str> = command.split_whitespace().collect();
            let depth = if ["train", "data"].contains(&words[0]) { 2 } else { 1 };
            let help = helps.entry(words[..depth].join(" ")).or_insert_with(|| {
                let output = Command::new(env!("CARGO_BIN_EXE_basin-volume")).args(&words[..depth]).arg("--help").output().unwrap();
                String::from_utf8(output.stdout).unwrap()
            });
            let known: Vec<&str> = help.split(|c: char| !(c.is_alphanumeric() || c == '-')).filter(|word| word.starts_with('-')).collect();
            let flags = words.iter().filter(|word| word.starts_with('-')).map(|word| word.split('=').next().unwrap_or(word));
            faults.extend(flags.filter(|flag| !known.contains(flag)).map(|flag| format!("{}: {flag} of `{command}`", page.display())));
        }
    }
    assert!(helps.len() > 5, "the commands of the book: {:?}", helps.keys());
    assert!(faults.is_empty(), "{faults:#?}");
}
