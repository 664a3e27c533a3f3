//! A file of plain text, which is one document: read as far as somebody wants it.

use std::io::Read;
use std::path::{Path, PathBuf};

use super::error::{Place, TextError};
use super::source::{LONGEST, Source};
use crate::json::BYTE_ORDER_MARK;

/// Bytes read at once at most.
const PART: usize = 1 << 20;

/// What has not been read of a file yet.
pub(super) struct Rest {
    path: PathBuf,
    source: Source,
    /// The beginning of a character whose end has not been read.
    open: Vec<u8>,
    started: bool,
}

impl Rest {
    pub(super) fn open(path: &Path) -> Result<Self, TextError> {
        Ok(Self { path: path.to_owned(), source: Source::open(path)?, open: Vec::new(), started: false })
    }

    /// Adds text until there are `least` bytes or the file ends, and says whether it has ended. A byte order mark at the start is no part
    /// of the text.
    pub(super) fn read(&mut self, text: &mut String, least: usize) -> Result<bool, TextError> {
        let fault = |source| TextError::Io { path: self.path.clone(), source };
        while text.len() < least {
            // At least a few bytes, so that every turn ends a character that was cut.
            let wanted = (least - text.len()).clamp(16, PART) as u64;
            let mut bytes = std::mem::take(&mut self.open);
            let length = (&mut self.source).take(wanted).read_to_end(&mut bytes).map_err(fault)?;
            if !self.started {
                self.started = true;
                if bytes.starts_with(BYTE_ORDER_MARK) {
                    bytes.drain(..BYTE_ORDER_MARK.len());
                }
            }
            match std::str::from_utf8(&bytes) {
                Ok(part) => text.push_str(part),
                // The last character may only be cut.
                Err(problem) if problem.error_len().is_none() && length > 0 => {
                    self.open = bytes.split_off(problem.valid_up_to());
                    text.push_str(&String::from_utf8_lossy(&bytes));
                }
                Err(problem) => {
                    let before = text.bytes().chain(bytes[..problem.valid_up_to()].iter().copied());
                    let line = before.filter(|&byte| byte == b'\n').count() + 1;
                    return Err(TextError::NotUtf8 { path: self.path.clone(), place: Place::Line(line as u64) });
                }
            }
            if length == 0 {
                return Ok(true);
            }
            if self.source.is_compressed() && text.len() > LONGEST {
                return Err(TextError::TooLong { path: self.path.clone(), place: Place::File, most: LONGEST >> 20 });
            }
        }
        Ok(false)
    }
}
