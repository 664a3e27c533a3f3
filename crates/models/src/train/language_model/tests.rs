use std::cell::Cell;

use super::super::Silent;
use super::*;

/// Sentences with a grammar: what follows depends on more than the token before.
fn text() -> String {
    let (subjects, verbs, objects) = (["the cat", "a dog", "my horse"], ["sees", "likes", "chases"], ["the tree", "a bird", "no one"]);
    let sentence = |i: usize| {
        let (a, b) = (i * 7 % 3, (i * i + i / 3) % 3);
        format!("{} {} {}{}", subjects[a], verbs[b], objects[(a + b) % 3], if i % 4 == 3 { ".\n" } else { ", and " })
    };
    (0..1500).map(sentence).collect()
}

fn source(folder: &Path) -> TextSource {
    let path = folder.join("sentences.txt");
    fs::write(&path, text()).unwrap();
    TextSource::new(path)
}

fn small() -> LanguageModelSpec {
    LanguageModelSpec {
        hidden_size: 32,
        layers: 2,
        heads: 2,
        vocab_size: 300,
        max_seq_len: 32,
        batch_size: 8,
        duration: Duration::Steps(40),
        warmup_steps: 5,
        learning_rate: 1e-2,
        ..LanguageModelSpec::default()
    }
}

#[test]
fn it_learns_more_than_frequencies_and_its_folder_is_complete() {
    let folder = tempfile::tempdir().unwrap();
    let source = source(folder.path());
    let out = folder.path().join("lm");
    let spec = LanguageModelSpec { duration: Duration::Epochs(2), ..small() };
    let checkpoint = train_language_model(&spec, &source, &out, &mut Silent).unwrap();
    let record = checkpoint.training.as_ref().and_then(TrainingRecord::language_model).unwrap();
    assert!(record.bigram_entropy < record.unigram_entropy);
    assert!(record.held_out_loss < 0.8 * record.unigram_entropy, "{record:?}");
    assert_eq!(record.step, record.total_steps);
    assert_eq!(record.total_steps, 2 * (record.train_sequences / 8));
    assert!(record.held_out_sequences >= 1 && record.text == "sentences.txt" && record.documents == 1);
    let first = Checkpoint::load(&out.join("step-0")).unwrap();
    let start = first.training.as_ref().and_then(TrainingRecord::language_model).unwrap();
    // Untrained, it is close to a uniform distribution over 300 words.
    assert!((start.held_out_loss - 300f64.ln()).abs() < 0.3, "{}", start.held_out_loss);
    for step in [0, 1, 2, 4, 8] {
        let loaded = Checkpoint::load(&out.join(format!("step-{step}"))).unwrap();
        assert_eq!(loaded.training.as_ref().unwrap().step(), step);
        assert_eq!(loaded.moments().unwrap().unwrap().step, step as u64);
        for file in ["tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "generation_config.json"] {
            assert!(loaded.folder.join(file).is_file(), "step {step}: {file}");
        }
    }
    assert!(!out.join("step-3").exists());
    let curve = fs::read_to_string(out.join(checkpoint::CURVE)).unwrap();
    assert_eq!(curve.lines().count(), record.total_steps);
    // The weights of the folder have the losses of the record, by the fast forward pass.
    let model = checkpoint.architecture.language_model().unwrap();
    let corpus = Corpus::read(&spec, &source, &mut Silent).unwrap();
    let (ids, labels) = corpus.batch(&corpus.held_out);
    let lengths = vec![32; corpus.held_out.len()];
    let logits = model.logits(&checkpoint.parameters.values(), &ids, &lengths).unwrap();
    let losses = logits.chunks(model.vocabulary()).zip(&labels).map(|(row, &label)| {
        let largest = row.iter().copied().fold(f32::NEG_INFINITY, f32::max);
        let sum: f64 = row.iter().map(|&logit| f64::from(logit - largest).exp()).sum();
        f64::from(largest) + sum.ln() - f64::from(row[label as usize])
    });
    let loss = losses.sum::<f64>() / labels.len() as f64;
    assert!((loss / record.held_out_loss - 1.0).abs() < 1e-5, "{loss} not {}", record.held_out_loss);
}

#[test]
fn the_same_seed_gives_the_same_bits_on_any_number_of_threads() {
    let folder = tempfile::tempdir().unwrap();
    let source = source(folder.path());
    let spec = LanguageModelSpec { duration: Duration::Steps(6), ..small() };
    let files = [checkpoint::CONFIG, checkpoint::MODEL, checkpoint::OPTIMIZER, checkpoint::CURVE, "tokenizer.json"];
    let mut contents: Vec<Vec<Vec<u8>>> = Vec::new();
    for threads in [1, 2, 3] {
        let out = folder.path().join(threads.to_string());
        let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
        pool.install(|| train_language_model(&spec, &source, &out, &mut Silent).unwrap());
        contents.push(files.iter().map(|file| fs::read(out.join(file)).unwrap()).collect());
    }
    for (index, file) in files.iter().enumerate() {
        assert!(contents[0][index] == contents[1][index] && contents[0][index] == contents[2][index], "{file}");
    }
    let other = train_language_model(&LanguageModelSpec { seed: 1, ..spec }, &source, &folder.path().join("other"), &mut Silent).unwrap();
    assert_ne!(fs::read(other.folder.join(checkpoint::MODEL)).unwrap(), contents[0][1]);
}

#[test]
fn biases_and_norms_do_not_decay() {
    let folder = tempfile::tempdir().unwrap();
    let source = source(folder.path());
    let weights = |weight_decay: f64| {
        let spec = LanguageModelSpec { duration: Duration::Steps(1), warmup_steps: 0, weight_decay, save_steps: false, ..small() };
        train_language_model(&spec, &source, &folder.path().join(weight_decay.to_string()), &mut Silent).unwrap().parameters
    };
    let (without, with) = (weights(0.0), weights(0.5));
    let initial = small().initial_weights(without.layout());
    for (parameter, values) in without.layout().unflatten(&without.values()) {
        for (index, (&free, &start)) in values.iter().zip(&initial[parameter.range()]).enumerate() {
            let decayed = with.values()[parameter.offset + index];
            let expected = if parameter.shape.len() > 1 { free - 1e-2 * 0.5 * start } else { free };
            assert!((decayed - expected).abs() < 1e-7, "{}: {decayed} not {expected}", parameter.name);
        }
    }
}

/// Stops after a number of steps.
struct StopAt {
    step: usize,
    seen: Cell<usize>,
}

impl Observer for StopAt {
    fn step(&mut self, step: usize, _: usize, _: f64) {
        self.seen.set(step);
    }

    fn interrupted(&self) -> bool {
        self.seen.get() == self.step
    }
}

#[test]
fn an_interrupted_run_goes_on_bit_for_bit() {
    let folder = tempfile::tempdir().unwrap();
    let source = source(folder.path());
    let spec = LanguageModelSpec { duration: Duration::Epochs(2), ..small() };
    let whole = train_language_model(&spec, &source, &folder.path().join("whole"), &mut Silent).unwrap();
    let out = folder.path().join("parts");
    // Before the first step there is nothing to keep.
    let error = train_language_model(&spec, &source, &out, &mut StopAt { step: 0, seen: Cell::new(0) }).unwrap_err();
    assert!(matches!(error, TrainError::Interrupted { step: 0, .. }), "{error}");
    assert!(!out.exists());
    let last = whole.training.as_ref().map_or(0, TrainingRecord::step);
    // In the middle of each epoch, and on a step that is saved anyway.
    for step in [3, 4, last / 2 + 1] {
        let error = train_language_model(&spec, &source, &out, &mut StopAt { step, seen: Cell::new(usize::MAX) }).unwrap_err();
        assert!(matches!(error, TrainError::Stopped { step: found, total, .. } if found == step && total == last), "{error}");
    }
    let message = train_language_model(&LanguageModelSpec { seed: 5, ..spec.clone() }, &source, &out, &mut Silent).unwrap_err().to_string();
    assert!(message.contains("another `seed` (0 there, 5 now)"), "{message}");
    let parts = train_language_model(&spec, &source, &out, &mut Silent).unwrap();
    for entry in whole.folder.read_dir().unwrap() {
        let name = entry.unwrap().file_name();
        let [whole, parts] = [&whole, &parts].map(|checkpoint| checkpoint.folder.join(&name));
        assert!(whole.is_dir() || fs::read(&whole).unwrap() == fs::read(&parts).unwrap(), "{} differs", name.display());
    }
    let count = |checkpoint: &Checkpoint| checkpoint.folder.read_dir().unwrap().count();
    assert_eq!(count(&whole), count(&parts));
}

#[test]
fn a_divergence_names_the_learning_rate() {
    let folder = tempfile::tempdir().unwrap();
    let source = source(folder.path());
    let wild = LanguageModelSpec { learning_rate: 1e38, ..small() };
    let message = train_language_model(&wild, &source, &folder.path().join("lm"), &mut Silent).unwrap_err().to_string();
    assert!(message.contains("smaller learning rate"), "{message}");
}

#[test]
fn nonsense_is_refused_by_name() {
    let folder = tempfile::tempdir().unwrap();
    let source = source(folder.path());
    let out = folder.path().join("lm");
    let cases = [
        (LanguageModelSpec { hidden_size: 0, ..small() }, "`hidden_size` is 0"),
        (LanguageModelSpec { layers: 0, ..small() }, "`layers` is 0"),
        (LanguageModelSpec { heads: 3, ..small() }, "`heads` is 3: expected a divisor"),
        (LanguageModelSpec { heads: 8, ..small() }, "`heads` is 8: expected few enough"),
        (LanguageModelSpec { vocab_size: 256, ..small() }, "vocabulary of 256"),
        (LanguageModelSpec { max_seq_len: 1, ..small() }, "`max_seq_len` is 1"),
        (LanguageModelSpec { batch_size: 0, ..small() }, "`batch_size` is 0"),
        (LanguageModelSpec { duration: Duration::Steps(0), ..small() }, "`steps` is 0"),
        (LanguageModelSpec { duration: Duration::Epochs(0), ..small() }, "`epochs` is 0"),
        (LanguageModelSpec { learning_rate: f64::NAN, ..small() }, "`learning_rate` is NaN"),
        (LanguageModelSpec { weight_decay: -0.1, ..small() }, "`weight_decay` is -0.1"),
        (LanguageModelSpec { gradient_clip: 0.0, ..small() }, "`gradient_clip` is 0"),
        (LanguageModelSpec { held_out: 1.0, ..small() }, "`held_out` is 1"),
        (LanguageModelSpec { betas: [0.9, 1.5], ..small() }, "`betas` is 1.5"),
        (LanguageModelSpec { batch_size: 5000, ..small() }, "5001 are needed"),
    ];
    for (spec, expected) in cases {
        let message = train_language_model(&spec, &source, &out, &mut Silent).unwrap_err().to_string();
        assert!(message.contains(expected), "`{message}` should contain `{expected}`");
    }
    let missing = TextSource::new(folder.path().join("absent.txt"));
    assert!(train_language_model(&small(), &missing, &out, &mut Silent).unwrap_err().to_string().contains("absent.txt"));
    assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 1);
    fs::create_dir(&out).unwrap();
    fs::write(out.join("notes.txt"), "mine").unwrap();
    let message = train_language_model(&small(), &source, &out, &mut Silent).unwrap_err().to_string();
    assert!(message.contains("no folder of an unfinished training"), "{message}");
    fs::write(out.join("config.json"), "{}").unwrap();
    assert!(train_language_model(&small(), &source, &out, &mut Silent).unwrap_err().to_string().contains("exists already"));
}
