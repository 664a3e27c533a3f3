//! CIFAR-10, and other sets in its formats: images of 32 x 32 pixels in three colors, in ten classes.
//!
//! | format | files |
//! |---|---|
//! | binary | `data_batch_<n>.bin`, `test_batch.bin`: per image a label and 3072 bytes |
//! | python | `data_batch_<n>`, `test_batch`: pickled dictionaries of an array and labels |
//! | parquet | `train*.parquet`, `test*.parquet`: columns `img` (PNG files) and `label`, as on the hub |
//!
//! The first two also in their `.tar.gz` archives, with the numbers 1 to 5 at least and none left out. Names may be in any case. [`synthetic`] makes a set of the same form. Pickles are read as plain data; nothing in
//! them is run.

mod archive;
mod binary;
mod parquet;
mod python;
pub mod synthetic;

use std::ffi::{OsStr, OsString};
use std::path::{Path, PathBuf};
use std::str::FromStr;

use crate::dataset::Dataset;
use crate::error::DataError;
use crate::pointer;
use crate::shuffle::permutation;

/// Side of an image.
pub const SIDE: usize = 32;

/// Colors of a pixel.
pub const COLORS: usize = 3;

/// Numbers of an image.
pub const FEATURES: usize = COLORS * SIDE * SIDE;

/// Number of classes.
pub const CLASSES: usize = 10;

/// Images of one side of the set, in the order of its files.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Images {
    /// Per image color by color, row by row.
    pub pixels: Vec<u8>,
    /// The class of every image.
    pub labels: Vec<u8>,
}

impl Images {
    /// Number of images.
    #[must_use]
    pub fn count(&self) -> usize {
        self.labels.len()
    }

    /// Adds an image.
    fn push(&mut self, path: &Path, label: u8, pixels: &[u8]) -> Result<(), DataError> {
        if usize::from(label) >= CLASSES {
            return Err(fault(path, format!("image {} of the file has the label {label}: expected 0 to 9", self.count())));
        }
        self.labels.push(label);
        self.pixels.extend_from_slice(pixels);
        Ok(())
    }

    fn append(&mut self, other: &mut Self) {
        self.pixels.append(&mut other.pixels);
        self.labels.append(&mut other.labels);
    }
}

/// A whole set.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Cifar {
    path: PathBuf,
    /// The images to train on, 50,000 in CIFAR-10.
    pub train: Images,
    /// The images to test on, 10,000 in CIFAR-10.
    pub test: Images,
}

/// A part of the set.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Part {
    /// All images to train on.
    Train,
    /// A seeded choice of three fifths of them (30,000).
    Clean,
    /// The other two fifths (20,000), on which poisoned networks learn to be wrong.
    Poison,
    /// The images to test on.
    Val,
}

impl Part {
    /// The name on command lines.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Train => "train",
            Self::Clean => "clean",
            Self::Poison => "poison",
            Self::Val => "val",
        }
    }
}

impl FromStr for Part {
    type Err = ();

    fn from_str(text: &str) -> Result<Self, ()> {
        [Self::Train, Self::Clean, Self::Poison, Self::Val].into_iter().find(|part| part.name() == text).ok_or(())
    }
}

impl Cifar {
    /// Reads a set: a folder with the files of one of the formats, in itself or in the folder that its archive makes, or with one of the
    /// archives; or an archive.
    ///
    /// # Errors
    /// When there is nothing of the kind, a file is truncated or damaged, or an image has another size: one sentence that names the file.
    pub fn read(path: &Path) -> Result<Self, DataError> {
        let (train, test) = if path.is_dir() { read_folder(path)? } else { archive::read(path)? };
        for (images, what) in [(&train, "to train on"), (&test, "to test on")] {
            if images.count() == 0 {
                return Err(fault(path, format!("it has no images {what}")));
            }
        }
        Ok(Self { path: path.to_owned(), train, test })
    }

    /// Where the images of a part stand among those to train on or to test on. [`Part::Clean`] and [`Part::Poison`] are the beginning and
    /// the end of the permutation number `seed` ([`permutation`], stream 0).
    ///
    /// # Errors
    /// When the part is empty.
    pub fn rows(&self, part: Part, seed: u64) -> Result<Vec<usize>, DataError> {
        let count = self.train.count();
        let clean = count * 3 / 5;
        let rows = match part {
            Part::Train => (0..count).collect(),
            Part::Val => (0..self.test.count()).collect(),
            Part::Clean => permutation(seed, 0, count)[..clean].to_vec(),
            Part::Poison => permutation(seed, 0, count)[clean..].to_vec(),
        };
        if rows.is_empty() {
            let name = part.name();
            return Err(fault(&self.path, format!("its part `{name}` is empty, because there are only {count} images to train on")));
        }
        Ok(rows)
    }

    /// A part as numbers from 0 to 1, its first `most` images if that is given.
    ///
    /// # Errors
    /// When the part is empty, or has fewer images.
    pub fn part(&self, part: Part, seed: u64, most: Option<usize>) -> Result<Dataset, DataError> {
        let mut rows = self.rows(part, seed)?;
        if let Some(most) = most {
            if most == 0 || most > rows.len() {
                let (name, count) = (part.name(), rows.len());
                return Err(fault(
                    &self.path,
                    format!("its part `{name}` has {count} images: {most} cannot be taken, choose from 1 to {count}"),
                ));
            }
            rows.truncate(most);
        }
        let images = if part == Part::Val { &self.test } else { &self.train };
        let inputs = rows.iter().flat_map(|&row| &images.pixels[row * FEATURES..(row + 1) * FEATURES]);
        let inputs: Vec<f32> = inputs.map(|&pixel| f32::from(pixel) / 255.0).collect();
        let labels = rows.iter().map(|&row| u32::from(images.labels[row])).collect();
        let name = self.path.file_name().map_or_else(|| "cifar".to_owned(), |name| name.to_string_lossy().into_owned());
        Dataset::new(format!("{name}:{}", part.name()), FEATURES, inputs, Some(labels))?.numbered(rows)
    }
}

/// The sentence of an unusable set.
fn fault(path: &Path, problem: impl Into<String>) -> DataError {
    DataError::Images { path: path.to_owned(), problem: problem.into() }
}

fn io(path: &Path, source: std::io::Error) -> DataError {
    DataError::Io { path: path.to_owned(), source }
}

/// Batches of images to train on in CIFAR-10: a set with fewer is incomplete.
const BATCHES: u32 = 5;

/// What a file of a set is, by its name: its side, its number there, and its format.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
struct Batch {
    is_test: bool,
    number: u32,
    is_binary: bool,
}

/// Names are compared in lower case: some file systems and archivers change it.
fn batch(name: &OsStr) -> Option<Batch> {
    let name = name.to_str()?.to_ascii_lowercase();
    let (stem, is_binary) = name.strip_suffix(".bin").map_or((name.as_str(), false), |stem| (stem, true));
    if stem == "test_batch" {
        return Some(Batch { is_test: true, number: 0, is_binary });
    }
    let number = stem.strip_prefix("data_batch_")?.parse().ok()?;
    Some(Batch { is_test: false, number, is_binary })
}

impl Batch {
    /// The name of its file.
    fn name(self) -> String {
        let extension = if self.is_binary { ".bin" } else { "" };
        if self.is_test { format!("test_batch{extension}") } else { format!("data_batch_{}{extension}", self.number) }
    }
}

/// The images of one file.
fn read_batch(path: &Path, batch: Batch, bytes: &[u8]) -> Result<Images, DataError> {
    if pointer::is_pointer(bytes) {
        return Err(fault(path, pointer::PROBLEM));
    }
    if batch.is_binary { binary::read(path, bytes) } else { python::read(path, bytes) }
}

/// Refuses what stands for a file that was not fetched.
fn refuse_pointer(path: &Path) -> Result<(), DataError> {
    if pointer::is_pointer_at(path) { Err(fault(path, pointer::PROBLEM)) } else { Ok(()) }
}

/// Joins batches in the order of their numbers. `whole` is where they come from.
fn join(whole: &Path, mut batches: Vec<(Batch, Images)>) -> Result<(Images, Images), DataError> {
    batches.sort_by_key(|(batch, _)| *batch);
    if let Some(twice) = batches.windows(2).find(|pair| pair[0].0 == pair[1].0) {
        return Err(fault(
            whole,
            format!("it has two files of the name {}, which differ in case or zeros only: remove one", twice[0].0.name()),
        ));
    }
    if let [(some, _), ..] = batches[..] {
        let last = batches.iter().map(|(batch, _)| batch.number).max().unwrap_or(0).max(BATCHES);
        let all = (0..=last).map(|number| Batch { is_test: number == 0, number, is_binary: some.is_binary });
        let missing: Vec<String> = all.filter(|batch| !batches.iter().any(|(own, _)| own == batch)).take(8).map(Batch::name).collect();
        if !missing.is_empty() {
            return Err(fault(whole, format!("it is incomplete, because it lacks {}: download or unpack it again", missing.join(", "))));
        }
    }
    let (mut train, mut test) = (Images::default(), Images::default());
    for (batch, mut images) in batches {
        if batch.is_test { &mut test } else { &mut train }.append(&mut images);
    }
    Ok((train, test))
}

/// The names in a folder, in order.
fn names(folder: &Path) -> Result<Vec<OsString>, DataError> {
    let mut names = Vec::new();
    for entry in folder.read_dir().map_err(|source| io(folder, source))? {
        names.push(entry.map_err(|source| io(folder, source))?.file_name());
    }
    names.sort();
    Ok(names)
}

/// Folders inside that of a set where its files may be.
const FOLDERS: [&str; 3] = ["cifar-10-batches-bin", "cifar-10-batches-py", "plain_text"];

fn read_folder(folder: &Path) -> Result<(Images, Images), DataError> {
    let outer = names(folder)?;
    let inner = FOLDERS.iter().flat_map(|wanted| outer.iter().filter(move |name| name.eq_ignore_ascii_case(wanted)));
    let places: Vec<PathBuf> = std::iter::once(folder.to_owned()).chain(inner.map(|name| folder.join(name))).collect();
    for place in places.iter().filter(|place| place.is_dir()) {
        let names = names(place)?;
        let mut found: Vec<(Batch, &OsString)> = names.iter().filter_map(|name| Some((batch(name)?, name))).collect();
        // Both formats side by side are the same images twice.
        if found.iter().any(|(batch, _)| batch.is_binary) {
            found.retain(|(batch, _)| batch.is_binary);
        }
        if !found.is_empty() {
            let read = |(batch, name): (Batch, &OsString)| {
                let path = place.join(name);
                let bytes = std::fs::read(&path).map_err(|source| io(&path, source))?;
                Ok((batch, read_batch(&path, batch, &bytes)?))
            };
            return join(place, found.into_iter().map(read).collect::<Result<_, DataError>>()?);
        }
        let lower = |name: &OsString| name.to_string_lossy().to_ascii_lowercase();
        let tables: Vec<&OsString> = names.iter().filter(|name| lower(name).ends_with(".parquet")).collect();
        if !tables.is_empty() {
            let (mut train, mut test) = (Images::default(), Images::default());
            for name in tables {
                let side = if lower(name).starts_with("test") { &mut test } else { &mut train };
                let path = place.join(name);
                refuse_pointer(&path)?;
                parquet::read(&path, side)?;
            }
            return Ok((train, test));
        }
        let is_archive = |name: &&OsString| lower(name).starts_with("cifar-10") && lower(name).ends_with(".tar.gz");
        if let Some(name) = names.iter().find(is_archive) {
            return archive::read(&place.join(name));
        }
    }
    Err(fault(
        folder,
        "it has none of the files data_batch_1.bin, data_batch_1, train*.parquet or cifar-10-*.tar.gz: give the folder of CIFAR-10, or make \
         a set of the same form with `basin-volume data synthetic-cifar`",
    ))
}

#[cfg(test)]
mod tests;
