//! Places of files that are written.

use std::path::Path;

use crate::error::{Context, Error};

/// Refuses a place where no file can be written, before anything is computed for it.
///
/// # Errors
/// [`Error::Usage`].
pub fn check_file_place(setting: &str, path: &Path) -> Result<(), Error> {
    if path.is_dir() {
        return Err(Error::usage(format!("`{setting}={}` is a folder: expected the name of a file", path.display())));
    }
    match path.ancestors().skip(1).find(|above| above.exists()) {
        Some(above) if !above.is_dir() => {
            Err(Error::usage(format!("`{setting}={}`: {} is a file, not a folder", path.display(), above.display())))
        }
        _ => Ok(()),
    }
}

/// Makes the folder that a file is to be written to.
///
/// # Errors
/// When it cannot be made.
pub fn make_folder_of(path: &Path) -> Result<(), Error> {
    match path.parent().filter(|folder| !folder.as_os_str().is_empty()) {
        Some(folder) => std::fs::create_dir_all(folder).context(|| format!("cannot create {}", folder.display())),
        None => Ok(()),
    }
}
