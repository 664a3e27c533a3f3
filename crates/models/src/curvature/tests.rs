//! Curvature files come back as they were, and wrong ones are refused in one sentence.

use super::*;

fn layout() -> ParameterLayout {
    ParameterLayout::new([("a.weight".to_owned(), vec![2, 3]), ("a.bias".to_owned(), vec![2]), ("b.weight".to_owned(), vec![1, 2])])
}

fn provenance(kind: &str) -> Provenance {
    let settings = serde_json::json!({ "probes": 4 }).as_object().cloned().unwrap_or_default();
    let data = serde_json::json!({ "sha256": "00" });
    let kind = kind.to_owned();
    Provenance { kind, weights_sha256: "abc".to_owned(), data, seed: 7, settings, software: "basin-volume 0".to_owned() }
}

fn numbers(count: usize) -> Vec<f32> {
    (0..count).map(|i| 0.25 * i as f32 + 0.125).collect()
}

fn block(parameter: &str, rows: usize, columns: usize) -> KroneckerBlock {
    KroneckerBlock {
        parameter: parameter.to_owned(),
        row_factor: numbers(rows * rows),
        column_factor: numbers(columns * columns),
        scale: 0.1,
    }
}

fn every_form() -> Vec<(&'static str, Curvature)> {
    let low_rank = |rest| Curvature::LowRankDiagonal { basis: numbers(30), eigenvalues: numbers(3), rest };
    vec![
        (kinds::FISHER_DIAGONAL, Curvature::Diagonal { values: numbers(10) }),
        (kinds::LEARNED, Curvature::Factors { values: numbers(10) }),
        (kinds::LOW_RANK, low_rank(RestDiagonal::Uniform(0.5))),
        (kinds::LOW_RANK, low_rank(RestDiagonal::PerWeight(numbers(10)))),
        (kinds::KRONECKER, Curvature::Kronecker { blocks: vec![block("a.weight", 2, 3), block("b.weight", 1, 2)], diagonal: numbers(2) }),
    ]
}

#[test]
fn every_form_comes_back_and_equal_content_gives_equal_files() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("new").join("file.safetensors");
    for (kind, curvature) in every_form() {
        write(&path, &curvature, &provenance(kind), &layout()).unwrap();
        let first = std::fs::read(&path).unwrap();
        write(&path, &curvature, &provenance(kind), &layout()).unwrap();
        assert_eq!(first, std::fs::read(&path).unwrap(), "{kind:?}");
        // The name is free; the form comes from the numbers.
        write(&path, &curvature, &provenance("a kind of my own"), &layout()).unwrap();
        assert_eq!(read(&path, &layout(), "abc").unwrap(), (curvature.clone(), provenance("a kind of my own")));
        write(&path, &curvature, &provenance(kind), &layout()).unwrap();
        let (read_back, origin) = read(&path, &layout(), "abc").unwrap();
        assert_eq!(read_back, curvature);
        assert_eq!(origin, provenance(kind));
        assert_eq!(read_provenance(&path).unwrap(), Some(origin));
        assert_eq!(read_back.hash(), curvature.hash());
    }
    let hashes: std::collections::BTreeSet<String> = every_form().iter().map(|(_, curvature)| curvature.hash()).collect();
    assert_eq!(hashes.len(), every_form().len(), "every form has its own hash");
}

#[test]
fn a_part_of_the_weights_is_read_from_a_file_for_all() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("file.safetensors");
    let part = ParameterLayout::new([("a.bias".to_owned(), vec![2]), ("b.weight".to_owned(), vec![1, 2])]);
    for (kind, curvature) in every_form() {
        write(&path, &curvature, &provenance(kind), &layout()).unwrap();
        let (found, _) = read(&path, &part, "abc").unwrap();
        let expected = match curvature {
            Curvature::Diagonal { values } => Curvature::Diagonal { values: values[6..].to_vec() },
            Curvature::Factors { values } => Curvature::Factors { values: values[6..].to_vec() },
            Curvature::Kronecker { blocks, diagonal } => Curvature::Kronecker { blocks: blocks[1..].to_vec(), diagonal },
            Curvature::LowRankDiagonal { basis, eigenvalues, rest } => {
                let rest = match rest {
                    RestDiagonal::PerWeight(values) => RestDiagonal::PerWeight(values[6..].to_vec()),
                    uniform => uniform,
                };
                Curvature::LowRankDiagonal { basis: basis.chunks(10).flat_map(|row| row[6..].to_vec()).collect(), eigenvalues, rest }
            }
        };
        assert_eq!(found, expected);
    }
}

#[test]
fn traces_are_those_of_the_matrices() {
    let close = |curvature: &Curvature, expected: f64| {
        let trace = curvature.trace(&layout());
        assert!((trace - expected).abs() < 1e-6 * expected, "{trace} {expected}");
    };
    let forms = every_form();
    close(&forms[0].1, 12.5);
    // tr(A x B) = tr A tr B.
    let trace = |n: usize| (0..n).map(|i| 0.25 * (i * (n + 1)) as f64 + 0.125).sum::<f64>();
    close(&forms[4].1, 0.1 * (trace(2) * trace(3) + trace(1) * trace(2)) + 0.5);
    let squares = |row: usize| (0..10).map(|i| (0.25 * (10 * row + i) as f64 + 0.125).powi(2)).sum::<f64>();
    close(&forms[2].1, 0.125 * squares(0) + 0.375 * squares(1) + 0.625 * squares(2) + 5.0);
}

#[test]
fn wrong_files_and_numbers_are_refused_in_one_sentence() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("file.safetensors");
    let refused = |layout: &ParameterLayout, hash: &str, words: &[&str]| {
        let message = read(&path, layout, hash).unwrap_err().to_string();
        for word in words {
            assert!(message.contains(word), "'{word}' is not in: {message}");
        }
        assert!(!message.contains('\n'));
    };
    refused(&layout(), "abc", &["cannot read"]);
    std::fs::write(&path, b"").unwrap();
    refused(&layout(), "abc", &["it is empty"]);
    std::fs::write(&path, b"not a tensor file at all").unwrap();
    refused(&layout(), "abc", &["not a complete safetensors file"]);
    let (kind, curvature) = every_form().swap_remove(0);
    write(&path, &curvature, &provenance(kind), &layout()).unwrap();
    refused(&layout(), "abd", &["another model", "abc", "abd"]);
    let other = ParameterLayout::new([("a.weight".to_owned(), vec![3, 2])]);
    refused(&other, "abc", &["`diagonal.a.weight`", "[2, 3]", "[3, 2]"]);
    let other = ParameterLayout::new([("c.weight".to_owned(), vec![3, 2])]);
    refused(&other, "abc", &["`diagonal.c.weight`", "missing"]);
    // Truncated files.
    let bytes = std::fs::read(&path).unwrap();
    std::fs::write(&path, &bytes[..bytes.len() - 1]).unwrap();
    refused(&layout(), "abc", &["not a complete safetensors file"]);
    // A file of the future.
    let mut text = bytes;
    let at = text.windows(12).position(|window| window == b"\\\"format\\\":1").unwrap();
    text[at + 11] = b'9';
    std::fs::write(&path, &text).unwrap();
    refused(&layout(), "abc", &["format is 9"]);

    let invalid = |curvature: Curvature, words: &str| {
        let message = write(&path, &curvature, &provenance(kinds::FISHER_DIAGONAL), &layout()).unwrap_err().to_string();
        assert!(message.contains(words), "'{words}' is not in: {message}");
    };
    let with = |index: usize, value: f32| {
        let mut values = numbers(10);
        values[index] = value;
        values
    };
    invalid(Curvature::Diagonal { values: with(7, -1.0) }, "entry 1 of the diagonal of a.bias is -1");
    invalid(Curvature::Diagonal { values: with(0, f32::NAN) }, "entry 0 of the diagonal of a.weight is NaN");
    invalid(Curvature::Factors { values: with(9, 0.0) }, "entry 1 of the factors of b.weight is 0: expected a finite number > 0");
    invalid(Curvature::Diagonal { values: numbers(9) }, "9 entries");
    invalid(Curvature::Kronecker { blocks: vec![block("a.bias", 1, 2)], diagonal: numbers(8) }, "`a.bias`");
    invalid(Curvature::Kronecker { blocks: vec![block("a.weight", 3, 3)], diagonal: numbers(4) }, "row factor of a.weight");
    let basis = numbers(20);
    invalid(
        Curvature::LowRankDiagonal { basis, eigenvalues: vec![1.0, -2.0], rest: RestDiagonal::Uniform(0.0) },
        "entry 1 of the eigenvalues is -2",
    );
}
