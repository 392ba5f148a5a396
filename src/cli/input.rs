//! Reading files and standard input, never more than a limit.

use std::fs::File;
use std::io::{self, Read};
use std::path::Path;

use super::CliError;

/// The argument that stands for standard input.
pub(super) const STDIN: &str = "-";

/// Reads a file, or standard input for [`STDIN`].
pub(super) fn read(path: &Path, bytes_max: usize) -> Result<Vec<u8>, CliError> {
    let input: Box<dyn Read> = if path == Path::new(STDIN) {
        Box::new(io::stdin())
    } else {
        Box::new(File::open(path).map_err(|error| read_error(path, error))?)
    };
    let limit = bytes_max as u64;
    let mut bytes = Vec::new();
    match input.take(limit + 1).read_to_end(&mut bytes) {
        Ok(length) if length <= bytes_max => Ok(bytes),
        Ok(_) => Err(CliError::TooLarge {
            path: path.into(),
            limit,
        }),
        Err(error) => Err(read_error(path, error)),
    }
}

/// [`read`] for text.
pub(super) fn read_text(path: &Path, bytes_max: usize) -> Result<String, CliError> {
    String::from_utf8(read(path, bytes_max)?).map_err(|_| CliError::NotUtf8 { path: path.into() })
}

pub(super) fn read_error(path: &Path, error: io::Error) -> CliError {
    CliError::Read {
        path: path.into(),
        error,
    }
}
