//! Looking into ext4 images: their names made fit for terminals, and how two of them differ.

mod diff;
mod text;

use std::fs::File;
use std::path::Path;

use ext4::read::{self, Reader};

use crate::{Error, Result};

pub use diff::{Aspect, Change, Detail, Difference, diff};
pub use text::{device_text, escaped, hex, kind_text, mode_text, xattr_text};

/// Opens an image to read.
///
/// # Errors
/// Where the file can not be read or holds no ext4 file system, naming it.
pub fn open(image: &Path) -> Result<Reader<File>> {
    let file = File::open(image).map_err(|e| Error::io(image.display(), e))?;
    Reader::open(file).map_err(failed(image))
}

/// Turns what went wrong in reading `image` into an error that names it.
pub fn failed(image: &Path) -> impl Fn(read::Error) -> Error {
    let image = image.display().to_string();
    move |error| match error {
        read::Error::Io(error) => Error::io(&image, error),
        error => Error::input(&image).because(error),
    }
}
