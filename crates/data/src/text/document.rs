//! A document, of which the beginning may be all that is read.

use std::path::Path;

use super::error::TextError;
use super::plain::Rest;

/// A document of text. That of a long `.txt` file is read as far as it is wanted, any other one is read already.
pub struct Document {
    text: String,
    rest: Option<Rest>,
}

impl From<String> for Document {
    fn from(text: String) -> Self {
        Self { text, rest: None }
    }
}

impl Document {
    /// A file as one document, of which nothing is read yet.
    pub(super) fn open(path: &Path) -> Result<Self, TextError> {
        Ok(Self { text: String::new(), rest: Some(Rest::open(path)?) })
    }

    /// The text as far as it is read.
    #[must_use]
    pub fn text(&self) -> &str {
        &self.text
    }

    /// Whether that is all of it.
    #[must_use]
    pub fn is_whole(&self) -> bool {
        self.rest.is_none()
    }

    /// Reads on until there are `least` bytes of text, or all of it.
    ///
    /// # Errors
    /// When the file cannot be read, or is not UTF-8.
    pub fn grow(&mut self, least: usize) -> Result<(), TextError> {
        if let Some(rest) = &mut self.rest
            && rest.read(&mut self.text, least)?
        {
            self.rest = None;
        }
        Ok(())
    }

    /// The whole text.
    ///
    /// # Errors
    /// As [`Document::grow`].
    pub fn into_text(mut self) -> Result<String, TextError> {
        self.grow(usize::MAX)?;
        Ok(self.text)
    }
}
