//! Named lists of numbers in a file of a run folder (safetensors), written beside and renamed, list by list: no more than one is in memory twice.

use std::collections::HashMap;
use std::fs::File;
use std::io::{self, BufReader, BufWriter, Read, Write};
use std::path::{Path, PathBuf};

use safetensors::tensor::{Dtype, Metadata, TensorInfo};

use super::folder::{FolderError, write_beside};

/// Numbers that are written at once.
const CHUNK: usize = 1 << 16;

/// The longest description of a file that is read.
const LONGEST_HEADER: u64 = 100_000_000;

/// Why a file of numbers cannot be read or written.
#[derive(Debug, thiserror::Error)]
pub(crate) enum TensorsError {
    /// It cannot be written.
    #[error(transparent)]
    Write(#[from] FolderError),
    /// It cannot be read, or is none of ours.
    #[error("{} cannot be read: {reason}", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        reason: String,
    },
}

/// A list to be written.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Values<'a> {
    F32(&'a [f32]),
    F64(&'a [f64]),
}

/// What a file holds.
#[derive(Debug, Clone, Default, PartialEq)]
pub(crate) struct Tensors {
    pub f32: HashMap<String, Vec<f32>>,
    pub f64: HashMap<String, Vec<f64>>,
    pub metadata: HashMap<String, String>,
}

impl Values<'_> {
    fn len(&self) -> usize {
        match self {
            Self::F32(values) => values.len(),
            Self::F64(values) => values.len(),
        }
    }

    fn dtype(&self) -> Dtype {
        match self {
            Self::F32(_) => Dtype::F32,
            Self::F64(_) => Dtype::F64,
        }
    }

    fn write(&self, out: &mut impl Write) -> io::Result<()> {
        match self {
            Self::F32(values) => write_chunks(out, values, |x| x.to_le_bytes()),
            Self::F64(values) => write_chunks(out, values, |x| x.to_le_bytes()),
        }
    }
}

fn write_chunks<T: Copy, const N: usize>(out: &mut impl Write, values: &[T], bytes: impl Fn(T) -> [u8; N]) -> io::Result<()> {
    values.chunks(CHUNK).try_for_each(|chunk| out.write_all(&chunk.iter().flat_map(|&x| bytes(x)).collect::<Vec<u8>>()))
}

/// Writes lists and words to `path`, in place of what was there.
pub(crate) fn write(path: &Path, lists: &[(String, Values<'_>)], metadata: HashMap<String, String>) -> Result<(), TensorsError> {
    let mut end = 0;
    let infos = lists.iter().map(|(name, values)| {
        let (dtype, start) = (values.dtype(), end);
        end += values.len() * dtype.bitsize() / 8;
        (name.clone(), TensorInfo { dtype, shape: vec![values.len()], data_offsets: (start, end) })
    });
    let infos: Vec<(String, TensorInfo)> = infos.collect();
    Ok(write_beside(path, |temporary| {
        let mut header = serde_json::to_string(&Metadata::new(Some(metadata), infos).map_err(io::Error::other)?)?;
        while header.len() % 8 != 0 {
            header.push(' ');
        }
        let mut out = BufWriter::new(File::create(temporary)?);
        out.write_all(&(header.len() as u64).to_le_bytes())?;
        out.write_all(header.as_bytes())?;
        lists.iter().try_for_each(|(_, values)| values.write(&mut out))?;
        out.into_inner().map_err(|error| error.into_error())?.sync_all()
    })?)
}

/// Reads what [`write`] has written; `None` when there is no file.
pub(crate) fn read(path: &Path) -> Result<Option<Tensors>, TensorsError> {
    found(path, open(path).and_then(|(mut file, header)| read_lists(&mut file, &header)))
}

/// The words alone; `None` when there is no file.
pub(crate) fn read_metadata(path: &Path) -> Result<Option<HashMap<String, String>>, TensorsError> {
    found(path, open(path).map(|(_, header)| header.metadata().clone().unwrap_or_default()))
}

fn found<T>(path: &Path, result: io::Result<T>) -> Result<Option<T>, TensorsError> {
    match result {
        Ok(found) => Ok(Some(found)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(TensorsError::Read { path: path.to_owned(), reason: error.to_string() }),
    }
}

/// The file behind its description.
fn open(path: &Path) -> io::Result<(BufReader<File>, Metadata)> {
    let file = File::open(path)?;
    let bytes = file.metadata()?.len();
    let mut file = BufReader::new(file);
    let mut length = [0u8; 8];
    file.read_exact(&mut length)?;
    let length = u64::from_le_bytes(length);
    if length > bytes.min(LONGEST_HEADER) {
        return Err(io::Error::other(format!("its description would be {length} bytes long")));
    }
    let mut header = vec![0u8; length as usize];
    file.read_exact(&mut header)?;
    let header: Metadata = serde_json::from_slice(&header)?;
    if header.data_len() as u64 + length + 8 != bytes {
        return Err(io::Error::other("it is not complete"));
    }
    Ok((file, header))
}

fn read_lists(file: &mut impl Read, header: &Metadata) -> io::Result<Tensors> {
    let mut tensors = Tensors { metadata: header.metadata().clone().unwrap_or_default(), ..Tensors::default() };
    for name in header.offset_keys() {
        let Some(info) = header.info(&name) else { continue };
        let mut data = vec![0u8; info.data_offsets.1 - info.data_offsets.0];
        file.read_exact(&mut data)?;
        match info.dtype {
            Dtype::F32 => {
                let values = data.as_chunks::<4>().0.iter().map(|bytes| f32::from_le_bytes(*bytes)).collect();
                tensors.f32.insert(name, values);
            }
            Dtype::F64 => {
                let values = data.as_chunks::<8>().0.iter().map(|bytes| f64::from_le_bytes(*bytes)).collect();
                tensors.f64.insert(name, values);
            }
            other => return Err(io::Error::other(format!("{name} is {other:?}, neither F32 nor F64"))),
        }
    }
    Ok(tensors)
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    #[test]
    fn every_number_comes_back_and_other_readers_understand_the_file() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("numbers.safetensors");
        assert_eq!(read(&path).unwrap(), None);
        let long: Vec<f32> = (0..CHUNK + 3).map(|i| (i as f32).sin()).collect();
        let odd = [f64::NAN, f64::INFINITY, -0.0, f64::MIN_POSITIVE];
        let lists = [("long".to_owned(), Values::F32(&long)), ("odd".to_owned(), Values::F64(&odd)), ("none".to_owned(), Values::F64(&[]))];
        write(&path, &lists, HashMap::from([("a".to_owned(), "b".to_owned())])).unwrap();
        let found = read(&path).unwrap().unwrap();
        assert_eq!(read_metadata(&path).unwrap(), Some(found.metadata.clone()));
        assert_eq!((&found.f32["long"], found.f64["none"].len(), found.metadata["a"].as_str()), (&long, 0, "b"));
        assert_eq!(found.f64["odd"].iter().map(|x| x.to_bits()).collect::<Vec<_>>(), odd.map(f64::to_bits));
        let bytes = fs::read(&path).unwrap();
        let theirs = safetensors::SafeTensors::deserialize(&bytes).unwrap();
        assert_eq!(theirs.tensor("long").unwrap().shape(), [long.len()]);
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 1, "nothing is left beside it");
    }

    #[test]
    fn what_is_no_such_file_gets_one_sentence() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("numbers.safetensors");
        write(&path, &[("a".to_owned(), Values::F32(&[1.0, 2.0]))], HashMap::new()).unwrap();
        let good = fs::read(&path).unwrap();
        for bad in [&good[..good.len() - 1], &good[..4], &[0xff; 64][..], b"{}"] {
            fs::write(&path, bad).unwrap();
            let error = read(&path).unwrap_err().to_string();
            assert!(error.contains("numbers.safetensors cannot be read: ") && !error.contains('\n'), "{error}");
        }
        assert!(matches!(write(&folder.path().join("no/such"), &[], HashMap::new()), Err(TensorsError::Write(_))));
    }
}
