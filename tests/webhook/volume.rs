//! A volume as the kubelet writes it: every file is a symlink into `..data`, and `..data` is a symlink
//! that is swapped in one step.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};

pub(crate) struct Volume {
    root: tempfile::TempDir,
    versions: u32,
}

impl Volume {
    pub(crate) fn new(files: &[(&str, &str)]) -> Self {
        let mut volume = Self {
            root: tempfile::tempdir().unwrap(),
            versions: 0,
        };
        volume.swap(files);
        for (name, _) in files {
            symlink(Path::new("..data").join(name), volume.path(name)).unwrap();
        }
        volume
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.root.path().join(name)
    }

    /// Replaces all files at once and removes the old ones, as the kubelet does.
    pub(crate) fn swap(&mut self, files: &[(&str, &str)]) {
        let old = format!("..{}", self.versions);
        self.versions += 1;
        let new = format!("..{}", self.versions);
        fs::create_dir(self.path(&new)).unwrap();
        for (name, text) in files {
            fs::write(self.path(&new).join(name), text).unwrap();
        }
        symlink(&new, self.path("..data_tmp")).unwrap();
        fs::rename(self.path("..data_tmp"), self.path("..data")).unwrap();
        fs::remove_dir_all(self.path(&old)).ok();
    }
}
