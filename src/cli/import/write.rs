//! Writes what was made into files: the Secrets for their owner's eyes only, and nothing over what is there.

use std::fs::{self, OpenOptions};
use std::io::{self, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};

use crate::cli::CliError;

/// For the owner only: it holds passwords.
const SECRET_MODE: u32 = 0o600;
/// For everybody who may enter the directory.
const MODE: u32 = 0o644;

/// Writes `secrets.yaml`, `rules.yaml` and `values.yaml`, and gives their paths. With `force` they may be there already.
pub(super) fn all(
    directory: &Path,
    force: bool,
    secrets: &str,
    rules: &str,
    values: &str,
) -> Result<Vec<String>, CliError> {
    let files = [
        ("secrets.yaml", SECRET_MODE, secrets),
        ("rules.yaml", MODE, rules),
        ("values.yaml", MODE, values),
    ]
    .map(|(name, mode, text)| (directory.join(name), mode, text));
    let failed = |path: &PathBuf| {
        let path = path.clone();
        move |error| CliError::WriteFile { path, error }
    };
    fs::create_dir_all(directory).map_err(failed(&directory.to_path_buf()))?;
    for (path, ..) in &files {
        if path.symlink_metadata().is_ok() {
            if !force {
                let error = io::Error::other("it is there already; --force replaces it");
                return Err(failed(path)(error));
            }
            // Not over it: that would keep its mode, and follow a link.
            fs::remove_file(path).map_err(failed(path))?;
        }
    }
    for (path, mode, text) in &files {
        let mut options = OpenOptions::new();
        let file = options.write(true).create_new(true).mode(*mode).open(path);
        let written = file.and_then(|mut file| file.write_all(text.as_bytes()));
        written.map_err(failed(path))?;
    }
    Ok(files.map(|(path, ..)| path.display().to_string()).to_vec())
}
