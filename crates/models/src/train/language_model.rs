//! Training of a small GPT-NeoX on text, with a tokenizer of its own, into folders that `transformers` loads.

mod corpus;
mod spec;

use std::fs;
use std::path::Path;
use std::sync::Arc;

use serde_json::{Map, Value, json};

use self::corpus::Corpus;
pub use self::spec::{Duration, LanguageModelSpec, TextSource};
use super::adam::{Adam, Decay};
use super::driver::{EpochOrder, Job, Recipe, State, check, drive};
use super::{Observer, TrainError, io, schedule};
use crate::arch::{self, Architecture, GradientSpace, LanguageModel, Sequences, Target, TokenBatch};
use crate::checkpoint::{self, Checkpoint, LanguageModelTraining, TrainingRecord};

/// Trains a tokenizer and a GPT-NeoX on a text and saves them as the checkpoint folder `out`.
///
/// All documents are joined, an end-of-text token before each, and cut into sequences of `max_seq_len` tokens, of which every token and
/// the one after it is a label; a seeded choice of them is held out.
///
/// A folder that an interrupted run of the same settings on the same text left is taken up where it ended: weights, moments and curve come
/// out as if nothing had happened, bit for bit.
///
/// # Errors
/// When a setting is out of range, the text cannot be read or is too short, `out` holds something else or cannot be written, the loss
/// diverges, or the observer interrupts.
pub fn train_language_model(
    spec: &LanguageModelSpec,
    source: &TextSource,
    out: &Path,
    observer: &mut dyn Observer,
) -> Result<Checkpoint, TrainError> {
    spec.check()?;
    check(out)?;
    let corpus = Corpus::read(spec, source, observer)?;
    let architecture = arch::from_config(&spec.config(corpus.tokenizer.vocab_size()))?;
    let model = architecture.language_model().unwrap_or_else(|| unreachable!("gpt_neox is a language model"));
    drive(&mut Run::new(spec, &corpus, &architecture, model), out, observer)?;
    Ok(Checkpoint::load(out)?)
}

/// The state of one training run.
struct Run<'a> {
    spec: &'a LanguageModelSpec,
    corpus: &'a Corpus,
    architecture: &'a Arc<dyn Architecture>,
    model: &'a LanguageModel,
    state: State,
    groups: Vec<(usize, Decay)>,
    order: EpochOrder,
    space: GradientSpace,
}

impl<'a> Run<'a> {
    fn new(spec: &'a LanguageModelSpec, corpus: &'a Corpus, architecture: &'a Arc<dyn Architecture>, model: &'a LanguageModel) -> Self {
        let layout = architecture.layout();
        let decay = |matrix| Decay { l2: 0.0, decoupled: if matrix { spec.weight_decay } else { 0.0 } };
        let groups = layout.parameters().iter().map(|parameter| (parameter.range().end, decay(parameter.shape.len() > 1))).collect();
        let weights = spec.initial_weights(&layout);
        Self {
            spec,
            corpus,
            architecture,
            model,
            state: State::new(layout, weights),
            groups,
            order: EpochOrder::default(),
            space: GradientSpace::default(),
        }
    }

    /// Steps of one pass over the training sequences; an incomplete batch at its end is left out.
    fn epoch_steps(&self) -> usize {
        self.corpus.train.len() / self.spec.batch_size
    }

    fn rate(&self, step: usize) -> f64 {
        let total = self.total();
        schedule::cosine(self.spec.learning_rate, self.spec.warmup_steps.min(total / 2), step, total)
    }

    /// Mean cross-entropy per token on some sequences, nats.
    fn evaluate(&self, sequences: &[usize]) -> Result<f64, TrainError> {
        let mut space = GradientSpace::default();
        let mut sum = 0.0;
        for (prepared, labels) in self.batches(sequences, 1.0)? {
            sum += self.model.loss(&self.state.weights, &prepared, Target::Labels(&labels), &mut space)?;
        }
        Ok(sum / (sequences.len() * self.spec.max_seq_len) as f64)
    }

    /// As many sequences at a time as go through the network together, with their labels; every position has the same weight.
    fn batches(&self, sequences: &[usize], weight: f32) -> Result<Vec<(Sequences, Vec<u32>)>, TrainError> {
        let length = self.spec.max_seq_len;
        let together = (self.model.positions_together() / length).max(1);
        let batch = |chunk: &[usize]| {
            let (ids, labels) = self.corpus.batch(chunk);
            let (lengths, weights) = (vec![length; chunk.len()], vec![weight; ids.len()]);
            Ok((self.model.sequences(TokenBatch { ids: &ids, lengths: &lengths, weights: &weights })?, labels))
        };
        sequences.chunks(together).map(batch).collect()
    }

    fn record(&self) -> Result<LanguageModelTraining, TrainError> {
        let (spec, corpus) = (self.spec, self.corpus);
        let compared = corpus.train.len().min(corpus.held_out.len());
        Ok(LanguageModelTraining {
            text: corpus.name.clone(),
            text_key: corpus.text_key.clone(),
            text_sha256: corpus.hash.clone(),
            documents: corpus.documents,
            tokens: corpus.ids.len(),
            train_sequences: corpus.train.len(),
            held_out_sequences: corpus.held_out.len(),
            max_seq_len: spec.max_seq_len,
            seed: spec.seed,
            batch_size: spec.batch_size,
            learning_rate: spec.learning_rate,
            warmup_steps: spec.warmup_steps,
            weight_decay: spec.weight_decay,
            betas: spec.betas,
            epsilon: spec.epsilon,
            gradient_clip: spec.gradient_clip,
            step: self.state.step(),
            total_steps: self.total(),
            train_loss: self.evaluate(&corpus.train[..compared])?,
            held_out_loss: self.evaluate(&corpus.held_out)?,
            unigram_entropy: corpus.unigram_entropy,
            bigram_entropy: corpus.bigram_entropy,
        })
    }
}

impl Job for Run<'_> {
    fn total(&self) -> usize {
        match self.spec.duration {
            Duration::Steps(steps) => steps,
            Duration::Epochs(epochs) => epochs * self.epoch_steps(),
        }
    }

    fn saves_steps(&self) -> bool {
        self.spec.save_steps
    }

    fn recipe(&self) -> Recipe {
        Recipe::new(self.spec, ("text", self.corpus.hash.clone()))
    }

    fn state(&mut self) -> &mut State {
        &mut self.state
    }

    fn step(&mut self, step: usize) -> Result<(f64, Map<String, Value>), TrainError> {
        let spec = self.spec;
        let (epoch, place) = (step / self.epoch_steps(), step % self.epoch_steps());
        let order = self.order.of(spec.seed, epoch, self.corpus.train.len());
        let chosen = &order[place * spec.batch_size..(place + 1) * spec.batch_size];
        let sequences: Vec<usize> = chosen.iter().map(|&index| self.corpus.train[index]).collect();
        let batches = self.batches(&sequences, 1.0 / (sequences.len() * spec.max_seq_len) as f32)?;
        let State { weights, gradient, .. } = &mut self.state;
        gradient.fill(0.0);
        let mut loss = 0.0;
        for (prepared, labels) in &batches {
            loss += self.model.add_gradient(weights, prepared, Target::Labels(labels), None, &mut self.space, gradient)?;
        }
        let norm = gradient.iter().map(|&slope| f64::from(slope).powi(2)).sum::<f64>().sqrt();
        if norm > spec.gradient_clip {
            let factor = (spec.gradient_clip / norm) as f32;
            gradient.iter_mut().for_each(|slope| *slope *= factor);
        }
        let rate = self.rate(step);
        let adam = Adam { betas: spec.betas, epsilon: spec.epsilon, rate };
        self.state.update(adam, &self.groups);
        let rest = [("epoch", json!(epoch + 1)), ("learning_rate", json!(rate)), ("gradient_norm", json!(norm))];
        Ok((loss, rest.into_iter().map(|(key, value)| (key.to_owned(), value)).collect()))
    }

    fn write(&mut self, folder: &Path) -> Result<(), TrainError> {
        let record = TrainingRecord::LanguageModel(self.record()?);
        checkpoint::write_files(folder, self.architecture.as_ref(), &self.state.parameters(), &self.state.moments, &record)?;
        self.corpus.tokenizer.save(folder, self.spec.max_seq_len)?;
        let generation = json!({ "_from_model_config": true, "bos_token_id": 0, "eos_token_id": 0 });
        let path = folder.join("generation_config.json");
        fs::write(&path, format!("{generation:#}\n")).map_err(|source| io(&path, source))
    }
}

#[cfg(test)]
mod tests;
