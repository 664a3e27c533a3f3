use super::*;

fn golden(name: &str) -> PathBuf {
    PathBuf::from(concat!(env!("CARGO_MANIFEST_DIR"), "/../../tests/golden/saved")).join(name)
}

fn read(path: &Path, key: &str) -> Result<Vec<String>, TextError> {
    ArrowColumn::open(path, key)?.collect()
}

/// TEXTS of the script that wrote the files.
fn texts() -> Vec<String> {
    vec!["first".to_owned(), String::new(), "größer 東京 🙂".to_owned(), "a longer text, ".repeat(20), "last\n".to_owned()]
}

#[test]
fn the_column_is_found_behind_columns_of_every_type() {
    for name in ["every_type", "large", "zstd", "legacy", "version4", "sliced", "view", "view_zstd"] {
        let path = golden(&format!("{name}.arrow"));
        let read = read(&path, "text").unwrap_or_else(|problem| panic!("{name}: {problem}"));
        assert_eq!(read, texts(), "{name}");
    }
    assert_eq!(read(&golden("every_type.arrow"), "other").unwrap(), ["other"; 5]);
    assert_eq!(read(&golden("every_type.arrow"), "view").unwrap(), ["a view that is too long to stand in its own entry"; 5]);
    assert!(read(&golden("no_rows.arrow"), "text").unwrap().is_empty());
}

#[test]
fn faults_name_the_file_and_the_column() {
    let cases = [
        ("every_type.arrow", "body", &["no `body`: set `text_key` to one of", "`integer`", "and 3 more"][..]),
        ("not_text.arrow", "words", &["numbers in a dictionary"]),
        ("not_text.arrow", "integer", &["a column of numbers"]),
        ("not_text.arrow", "binary", &["a column of bytes"]),
        ("not_text.arrow", "list", &["a column of lists"]),
        ("not_text.arrow", "structure", &["a column of structures"]),
        ("nulls.arrow", "text", &["row 4", "null"]),
        ("lz4.arrow", "text", &["lz4", "zstd or no compression"]),
    ];
    for (name, key, parts) in cases {
        let message = read(&golden(name), key).unwrap_err().to_string();
        for part in parts.iter().chain([&name]) {
            assert!(message.contains(part), "`{message}` should contain `{part}`");
        }
    }
}

#[test]
fn rows_before_damage_are_read() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("cut.arrow");
    let whole = std::fs::read(golden("version4.arrow")).unwrap();
    std::fs::write(&path, &whole[..whole.len() - 60]).unwrap();
    let mut column = ArrowColumn::open(&path, "text").unwrap();
    assert_eq!(column.next().unwrap().unwrap(), "first");
    let message = column.find_map(Result::err).unwrap().to_string();
    assert!(message.contains("cut.arrow, row ") && message.contains("truncated"), "{message}");
}

/// Changed files in a fixed order: none may panic or loop, and every fault is one sentence.
#[test]
fn damaged_files_are_refused_in_one_sentence() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("damaged.arrow");
    let mut refused = 0;
    for name in ["every_type.arrow", "zstd.arrow", "large.arrow", "legacy.arrow", "view.arrow"] {
        let whole = std::fs::read(golden(name)).unwrap();
        let cut = (0..whole.len()).step_by(29).map(|length| whole[..length].to_vec());
        let filled = (0..whole.len() - 8).step_by(11).flat_map(|place| {
            [0x00, 0x01, 0x7f, 0xff].map(|byte| {
                let mut content = whole.clone();
                content[place..place + 4].fill(byte);
                content
            })
        });
        let flipped = (0..whole.len()).step_by(5).map(|place| {
            let mut content = whole.clone();
            content[place] ^= 1 << (place % 8);
            content
        });
        for content in cut.chain(filled).chain(flipped) {
            std::fs::write(&path, &content).unwrap();
            if let Err(problem) = read(&path, "text") {
                refused += 1;
                let message = problem.to_string();
                assert!(message.contains("damaged.arrow") && !message.contains('\n') && message.len() < 1500, "{name}: {message}");
            }
        }
    }
    assert!(refused > 1000, "only {refused} were refused");
}

#[test]
fn other_files_are_not_taken_for_tables() {
    let folder = tempfile::tempdir().unwrap();
    for (content, problem) in [
        (&b""[..], "it is empty"),
        (b"FEA1 and more than eight bytes", "truncated"),
        (b"ARROW1\0\0 no end", "its end is missing"),
        (b"\x1f\x8b\x08\0", "compressed with gzip"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:0\n", "git lfs pull"),
    ] {
        let path = folder.path().join("a.arrow");
        std::fs::write(&path, content).unwrap();
        let message = read(&path, "text").unwrap_err().to_string();
        assert!(message.contains(problem) && message.contains("a.arrow"), "`{message}` should contain `{problem}`");
    }
}
