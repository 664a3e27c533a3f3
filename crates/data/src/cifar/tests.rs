use std::fs;

use super::*;

fn golden(name: &str) -> PathBuf {
    PathBuf::from(concat!(env!("CARGO_MANIFEST_DIR"), "/../../tests/golden/cifar")).join(name)
}

fn message(path: &Path) -> String {
    let message = Cifar::read(path).unwrap_err().to_string();
    assert!(!message.contains('\n') && message.len() < 600, "{message}");
    message
}

#[test]
fn every_format_gives_the_same_images() {
    let first = Cifar::read(&golden("binary")).unwrap();
    assert_eq!((first.train.count(), first.test.count()), (10, 3));
    assert_eq!(first.train.labels, (0..10).collect::<Vec<u8>>());
    assert_eq!(first.test.labels, [0, 1, 2]);
    // numpy.random.default_rng(0).integers(0, 256, 3072, dtype=numpy.uint8)[:4], and default_rng(12)'s.
    assert_eq!((&first.train.pixels[..4], &first.test.pixels[2 * FEATURES..][..4]), (&FIRST[..], &LAST[..]));
    for name in ["python", "hub", "cifar-10-binary.tar.gz", "cifar-10-python.tar.gz"] {
        let other = Cifar::read(&golden(name)).unwrap();
        assert!(other.train == first.train && other.test == first.test, "{name}");
    }
}

#[test]
fn pickles_of_every_protocol_and_layout_are_read() {
    let first = Cifar::read(&golden("binary")).unwrap();
    let folder = golden("pickles");
    let (mut read, mut wrong) = (0, 0);
    for entry in folder.read_dir().unwrap() {
        let path = entry.unwrap().path();
        let name = path.file_name().unwrap().to_str().unwrap().to_owned();
        let images = python::read(&path, &fs::read(&path).unwrap());
        if let Some(wrong_in) = name.strip_prefix("wrong_") {
            let message = images.unwrap_err().to_string();
            let expected = match wrong_in {
                "label_floats" => "hold a number: expected",
                "label_text" => "hold a text: expected",
                "data_floats" => "the type `f4`",
                "data_objects" => "an array of objects or texts",
                _ => "the shape [2, 3000]",
            };
            assert!(message.contains(expected) && message.contains(&name), "{message}");
            wrong += 1;
        } else {
            let images = images.unwrap_or_else(|problem| panic!("{problem}"));
            assert!(images.pixels == first.train.pixels[..2 * FEATURES] && images.labels == [0, 1], "{name}");
            read += 1;
        }
    }
    assert_eq!((read, wrong), (19, 5));
}

/// Cut and changed pickles: no panic, one sentence each, and as much memory as they have bytes.
#[test]
fn damaged_pickles_are_refused_in_one_sentence() {
    let folder = golden("pickles");
    let mut refused = 0;
    for name in ["protocol0", "protocol2", "protocol5", "label_big_endian2", "label_scalars5"] {
        let whole = fs::read(folder.join(name)).unwrap();
        // The pixels are most of a file: what stands around them matters.
        let places = (0..whole.len()).filter(|place| *place < 400 || *place + 400 > whole.len() || place.is_multiple_of(501));
        for place in places {
            let mut flipped = whole.clone();
            flipped[place] ^= 1 << (place % 8);
            for content in [&whole[..place], &flipped] {
                if let Err(problem) = python::read(Path::new("batch"), content) {
                    refused += 1;
                    let message = problem.to_string();
                    assert!(message.contains("batch") && !message.contains('\n') && message.len() < 500, "{message}");
                }
            }
        }
    }
    assert!(refused > 3000, "{refused}");
    // The same text of a megabyte made into bytes again and again.
    let mut stream = b"\x80\x02c_codecs\nencode\nq\x00X\x00\x00\x10\x00".to_vec();
    stream.extend([b'a'; 1 << 20]);
    stream.extend(b"q\x01X\x06\x00\x00\x00latin1q\x02");
    for _ in 0..100_000 {
        stream.extend(b"h\x00h\x01h\x02\x86R0");
    }
    let message = python::read(Path::new("batch"), &stream).unwrap_err().to_string();
    assert!(message.contains("again and again"), "{message}");
}

#[test]
fn names_in_any_case_are_found_and_missing_batches_are_named() {
    let folder = tempfile::tempdir().unwrap();
    let inner = folder.path().join("CIFAR-10-Batches-Py");
    fs::create_dir(&inner).unwrap();
    for entry in golden("python").read_dir().unwrap() {
        let entry = entry.unwrap();
        fs::copy(entry.path(), inner.join(entry.file_name().to_str().unwrap().to_uppercase())).unwrap();
    }
    assert_eq!(Cifar::read(folder.path()).unwrap(), Cifar { path: folder.path().to_owned(), ..Cifar::read(&golden("python")).unwrap() });
    for (names, expected) in [(&["DATA_BATCH_3"][..], "lacks data_batch_3:"), (&["DATA_BATCH_5"], "lacks data_batch_3, data_batch_5:")] {
        names.iter().for_each(|name| fs::remove_file(inner.join(name)).unwrap());
        let found = message(folder.path());
        assert!(found.contains(expected) && found.contains("incomplete"), "{found}");
    }
    for name in ["data_batch_3", "data_batch_5", "data_batch_02"] {
        fs::copy(golden("python/data_batch_2"), inner.join(name)).unwrap();
    }
    assert!(message(folder.path()).contains("two files of the name data_batch_2"));
    fs::remove_file(inner.join("data_batch_02")).unwrap();
    fs::remove_file(inner.join("TEST_BATCH")).unwrap();
    assert!(message(folder.path()).contains("lacks test_batch:"));
}

const FIRST: [u8; 4] = [95, 130, 194, 217];
const LAST: [u8; 4] = [56, 207, 217, 156];

#[test]
fn folders_of_archives_and_their_contents_are_found() {
    let folder = tempfile::tempdir().unwrap();
    let inner = folder.path().join("cifar-10-batches-py");
    fs::create_dir(&inner).unwrap();
    for entry in golden("python").read_dir().unwrap() {
        let entry = entry.unwrap();
        fs::copy(entry.path(), inner.join(entry.file_name())).unwrap();
    }
    assert_eq!(Cifar::read(folder.path()).unwrap().train.count(), 10);
    fs::remove_dir_all(&inner).unwrap();
    assert!(message(folder.path()).contains("synthetic-cifar"));
    fs::copy(golden("cifar-10-binary.tar.gz"), folder.path().join("cifar-10-binary.tar.gz")).unwrap();
    assert_eq!(Cifar::read(folder.path()).unwrap().test.count(), 3);
    assert!(message(&folder.path().join("nothing")).contains("neither a folder nor"));
}

#[test]
fn parts_are_seeded_and_do_not_overlap() {
    let data = Cifar::read(&golden("binary")).unwrap();
    let (clean, poison) = (data.rows(Part::Clean, 3).unwrap(), data.rows(Part::Poison, 3).unwrap());
    assert_eq!((clean.len(), poison.len()), (6, 4));
    let mut all = [clean.clone(), poison].concat();
    all.sort_unstable();
    assert_eq!(all, (0..10).collect::<Vec<_>>());
    assert_ne!(clean, data.rows(Part::Clean, 4).unwrap());
    let some = data.part(Part::Clean, 3, Some(2)).unwrap();
    assert_eq!((some.rows(), some.features(), some.order()), (2, FEATURES, &clean[..2]));
    assert_eq!(some.labels().unwrap()[1], clean[1] as u32);
    assert_eq!(some.inputs()[5], f32::from(data.train.pixels[clean[0] * FEATURES + 5]) / 255.0);
    assert_eq!(some.name(), "binary:clean");
    assert_eq!(data.part(Part::Val, 0, None).unwrap().rows(), 3);
    for most in [0, 4] {
        let error = data.part(Part::Val, 0, Some(most)).unwrap_err().to_string();
        assert!(error.contains("choose from 1 to 3"), "{error}");
    }
    let one = Images { pixels: vec![0; FEATURES], labels: vec![0] };
    let small = Cifar { path: "small".into(), train: one.clone(), test: one };
    assert!(small.rows(Part::Clean, 0).unwrap_err().to_string().contains("its part `clean` is empty"));
    assert_eq!(("poison".parse(), "test".parse::<Part>()), (Ok(Part::Poison), Err(())));
}

#[test]
fn damaged_files_are_refused_in_one_sentence() {
    let folder = tempfile::tempdir().unwrap();
    let place = |name: &str, bytes: &[u8]| {
        fs::remove_dir_all(folder.path()).unwrap();
        fs::create_dir(folder.path()).unwrap();
        for test in ["test_batch.bin", "test_batch"].iter().filter(|test| test.ends_with(".bin") == name.ends_with(".bin")) {
            let source = if test.ends_with(".bin") { "binary" } else { "python" };
            fs::copy(golden(source).join(test), folder.path().join(test)).unwrap();
        }
        fs::write(folder.path().join(name), bytes).unwrap();
    };
    let bytes = fs::read(golden("binary/data_batch_1.bin")).unwrap();
    for length in [0, 1, 3072, 6145] {
        place("data_batch_1.bin", &bytes[..length]);
        let found = message(folder.path());
        assert!(found.contains("not whole images") && found.contains("data_batch_1.bin"), "{found}");
    }
    let mut wrong = bytes.clone();
    wrong[3073] = 10;
    place("data_batch_1.bin", &wrong);
    assert!(message(folder.path()).contains("the label 10"));
    place("data_batch_1.bin", b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 30730000\n");
    assert!(message(folder.path()).contains("git lfs pull"));
    place("data_batch_7.bin", &bytes);
    assert!(message(folder.path()).contains("lacks data_batch_1.bin, data_batch_2.bin"));

    let bytes = fs::read(golden("python/data_batch_1")).unwrap();
    for length in (0..bytes.len()).step_by(97) {
        place("data_batch_1", &bytes[..length]);
        let found = message(folder.path());
        assert!(found.contains("data_batch_1"), "{found}");
    }
    let changed = |from: &[u8], to: &[u8]| {
        let at = bytes.windows(from.len()).position(|window| window == from).unwrap();
        [&bytes[..at], to, &bytes[at + from.len()..]].concat()
    };
    place("data_batch_1", &changed(b"cnumpy.core.multiarray\n_reconstruct", b"cposix\nsystem"));
    let found = message(folder.path());
    assert!(found.contains("posix.system") && found.contains("nothing was run"), "{found}");
    place("data_batch_1", &changed(b"labels", b"labelz"));
    assert!(message(folder.path()).contains("without an entry `labels`"));

    for name in ["cifar-10-binary.tar.gz", "cifar-10-python.tar.gz"] {
        let bytes = fs::read(golden(name)).unwrap();
        let path = folder.path().join(name);
        for length in [0, 5, 100, bytes.len() / 2, bytes.len() - 20] {
            fs::write(&path, &bytes[..length]).unwrap();
            let found = message(&path);
            assert!(found.contains("truncated") || found.contains("no batches"), "{length}: {found}");
        }
    }
    let hub = golden("hub/plain_text");
    let bytes = fs::read(hub.join("train-00000-of-00001.parquet")).unwrap();
    fs::remove_dir_all(folder.path()).unwrap();
    fs::create_dir(folder.path()).unwrap();
    fs::copy(hub.join("test-00000-of-00001.parquet"), folder.path().join("test-00000-of-00001.parquet")).unwrap();
    let path = folder.path().join("train-00000-of-00001.parquet");
    for length in (0..bytes.len()).step_by(2311) {
        fs::write(&path, &bytes[..length]).unwrap();
        assert!(message(folder.path()).contains("no whole parquet table"));
    }
    // A byte inside a PNG file: its check sum tells.
    let mut wrong = bytes.clone();
    let at = bytes.windows(4).position(|window| window == b"IDAT").unwrap();
    wrong[at + 40] ^= 0xff;
    fs::write(&path, &wrong).unwrap();
    let found = message(folder.path());
    assert!(found.contains("row 0") && found.contains("PNG"), "{found}");
}

#[test]
fn the_synthetic_set_is_seeded_balanced_and_in_the_binary_format() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("set");
    synthetic::write(&path, 7, 52, 13).unwrap();
    let data = Cifar::read(&path).unwrap();
    assert_eq!((data.train.count(), data.test.count()), (52, 13));
    assert_eq!(data.train, synthetic::images(7, 0, 52));
    assert_eq!(data.test, synthetic::images(7, 52, 13));
    assert_ne!(data.train.pixels, synthetic::images(8, 0, 52).pixels);
    assert_eq!(data.train.labels[..12], [0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 0, 1]);
    assert_eq!(fs::read_to_string(path.join("batches.meta.txt")).unwrap().lines().count(), CLASSES);
    assert!(synthetic::write(&path, 7, 52, 13).unwrap_err().to_string().contains("exists already"));
    assert!(synthetic::write(&folder.path().join("few"), 7, 9, 13).unwrap_err().to_string().contains("at least one per class"));
}
