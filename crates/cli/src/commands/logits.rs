//! `logits`: a language model's outputs in a file, for anybody to compare.

use std::borrow::Cow;
use std::collections::HashMap;
use std::fs::{self, File};
use std::path::Path;
use std::sync::Mutex;

use basin_volume::run::manifest::software;
use basin_volume_data::tokens::TokenSequence;
use basin_volume_engine::data::text::{self, Kept};
use basin_volume_engine::error::{Context as _, Error};
use basin_volume_engine::events::Event;
use basin_volume_engine::files::{check_file_place, make_folder_of};
use basin_volume_engine::model::Model;
use basin_volume_engine::request::{DataRequest, Machine};
use basin_volume_engine::session::Session;
use basin_volume_models::arch::LanguageModel;
use safetensors::tensor::{Dtype, View};

use super::{Context, print};
use crate::args::LogitsArgs;

pub fn run(args: &LogitsArgs, context: &Context) -> Result<(), Error> {
    check_file_place("out", &args.out)?;
    let mut request = DataRequest::default();
    args.data.apply(&mut request);
    let data = request.one()?;
    let session = context.session(Machine::default(), context.screen());
    let model = Model::resolve(&args.model, &session)?;
    let Some(network) = model.language_model() else {
        return Err(Error::usage(format!(
            "{} is of the type \"{}\", which has no tokens: give a language model",
            model.name,
            model.checkpoint.architecture.model_type()
        )));
    };
    let kept = Kept::default();
    let tokens = match (&args.tokens, data) {
        (Some(path), _) => {
            if let Some(setting) = [request.dataset_settings(), request.text_settings()].concat().first() {
                return Err(Error::usage(format!("`{setting}` is for `data`, but `tokens` are ids already: leave it out")));
            }
            text::ids(path, kept, network)?
        }
        (None, Some(data)) => text::resolve(data, &request, kept, &model, network, &session)?,
        (None, None) => return Err(Error::usage("give `tokens` or `data`")),
    };
    let parameters = &model.checkpoint.parameters;
    let weights = parameters.values();
    let sequences = &tokens.sequences;
    let writer = Writer {
        network,
        weights: &weights,
        session: &session,
        done: Mutex::new(0),
        total: sequences.count() as u64,
        not_finite: Mutex::new(None),
    };
    let mut tensors = Vec::new();
    for (index, sequence) in sequences.iter().enumerate() {
        tensors.push((format!("logits.{index}"), Tensor::logits(&writer, index, sequence)));
        tensors.push((format!("tokens.{index}"), Tensor::tokens(&writer, index, sequence)));
    }
    let metadata: HashMap<String, String> = [
        ("model", model.name.clone()),
        ("weights_sha256", parameters.hash()),
        ("tokens_sha256", sequences.hash()),
        ("software", software()),
    ]
    .map(|(key, value)| (key.to_owned(), value))
    .into();
    write(&args.out, &writer, tensors, metadata)?;
    print(&format!(
        "Logits of {} sequences, {} tokens x {} in {}",
        sequences.count(),
        sequences.ids().len(),
        network.vocabulary(),
        args.out.display()
    ))
}

/// Writes beside the place and renames: a file of that name is always whole, and has finite logits.
fn write(out: &Path, writer: &Writer, tensors: Vec<(String, Tensor)>, metadata: HashMap<String, String>) -> Result<(), Error> {
    make_folder_of(out)?;
    let folder = out.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let place = || format!("cannot write the logits to {}", out.display());
    let temporary = tempfile::Builder::new().prefix(".logits.").suffix(".partial").tempfile_in(folder).context(place)?.into_temp_path();
    let written = safetensors::serialize_to_file(tensors, Some(metadata), &temporary);
    writer.session.tell(&Event::Done);
    written.context(place)?;
    writer.session.proceed()?;
    if let Some(sequence) = *writer.not_finite.lock().unwrap_or_else(std::sync::PoisonError::into_inner) {
        let sequence = sequence + 1;
        return Err(Error::failed(format!("the logits of sequence {sequence} are not finite: the checkpoint is broken or diverged")));
    }
    // A temporary file is private to its owner; this one is for anybody.
    #[cfg(unix)]
    {
        use std::os::unix::fs::PermissionsExt;
        fs::set_permissions(&temporary, fs::Permissions::from_mode(0o644)).context(place)?;
    }
    File::open(&temporary).and_then(|file| file.sync_all()).context(place)?;
    temporary.persist(out).context(place)?;
    Ok(())
}

/// What all tensors need, and what they find.
struct Writer<'a> {
    network: &'a LanguageModel,
    weights: &'a [f32],
    session: &'a Session,
    /// Sequences that are written, of how many.
    done: Mutex<u64>,
    total: u64,
    /// The first sequence with a NaN or infinite logit.
    not_finite: Mutex<Option<usize>>,
}

/// A tensor whose values are computed when its turn to be written comes, so that one sequence is in memory at a time.
struct Tensor<'a> {
    writer: &'a Writer<'a>,
    index: usize,
    ids: &'a [u32],
    shape: Vec<usize>,
    is_logits: bool,
}

impl<'a> Tensor<'a> {
    fn logits(writer: &'a Writer<'a>, index: usize, sequence: TokenSequence<'a>) -> Self {
        Self { writer, index, ids: sequence.ids, shape: vec![sequence.ids.len(), writer.network.vocabulary()], is_logits: true }
    }

    fn tokens(writer: &'a Writer<'a>, index: usize, sequence: TokenSequence<'a>) -> Self {
        Self { writer, index, ids: sequence.ids, shape: vec![sequence.ids.len()], is_logits: false }
    }
}

impl View for Tensor<'_> {
    fn dtype(&self) -> Dtype {
        if self.is_logits { Dtype::F32 } else { Dtype::I64 }
    }

    fn shape(&self) -> &[usize] {
        &self.shape
    }

    fn data(&self) -> Cow<'_, [u8]> {
        if !self.is_logits {
            return self.ids.iter().flat_map(|&id| i64::from(id).to_le_bytes()).collect();
        }
        // After a request to stop the file will be thrown away: its content does not matter.
        if self.writer.session.interrupt.is_raised() {
            return vec![0; self.data_len()].into();
        }
        // Ids and lengths were checked when the sequences were made.
        let logits = self.writer.network.logits(self.writer.weights, self.ids, &[self.ids.len()]).unwrap_or_default();
        if logits.len() != self.shape.iter().product::<usize>() || logits.iter().any(|logit| !logit.is_finite()) {
            let mut first = self.writer.not_finite.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
            *first = Some(first.map_or(self.index, |first| first.min(self.index)));
            return vec![0; self.data_len()].into();
        }
        let mut done = self.writer.done.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        *done += 1;
        self.writer.session.tell(&Event::Records { run: "logits", noun: "sequences", done: *done, total: self.writer.total });
        logits.iter().flat_map(|logit| logit.to_le_bytes()).collect()
    }

    fn data_len(&self) -> usize {
        self.shape.iter().product::<usize>() * if self.is_logits { 4 } else { 8 }
    }
}
