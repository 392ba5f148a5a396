//! Images: one busybox that sleeps unless a Pod gives it another command, with a fresh digest for every push, so that an image
//! the node has already never hides that a password was not needed.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::Path;
use std::process::Command;
use std::sync::atomic::{AtomicU32, Ordering};

use crate::harness::sandbox::run;
use crate::harness::tier::tools;

/// The one open registry that images are pushed to.
#[derive(Debug)]
pub(crate) struct Images {
    registry: String,
    counter: AtomicU32,
}

impl Images {
    /// Makes the layer that all images share and pushes it to `registry`.
    pub(crate) fn create(registry: &str, at: &Path) -> Self {
        let layer = at.join("layer.tar");
        write_layer(&at.join("root"), &layer);
        let images = Self {
            registry: registry.to_owned(),
            counter: AtomicU32::new(0),
        };
        let layer = layer.to_string_lossy();
        crane(&["append", "--new_layer", &layer, "--new_tag", &images.base()]);
        images.push("pause", "1");
        images
    }

    /// The image of every Pod's sandbox.
    pub(crate) fn pause(&self) -> String {
        format!("{}/pause:1", self.registry)
    }

    /// A tag that no other call gets.
    pub(crate) fn unique_tag(&self) -> String {
        format!("v{}", self.next())
    }

    /// Pushes an image that differs from every other one. Its program sleeps for ever.
    pub(crate) fn push(&self, repository: &str, tag: &str) {
        crane(&[
            "mutate",
            &self.base(),
            "--entrypoint",
            "/bin/busybox,sleep,1000000",
            "--set-platform",
            &platform(),
            "--label",
            &format!("push={}", self.next()),
            "--tag",
            &format!("{}/{repository}:{tag}", self.registry),
        ]);
    }

    /// Pushes an image with this layer alone, or over the one that all images share, and gives its name. Its user is not
    /// root.
    pub(crate) fn push_layer(&self, layer: &Path, over_base: bool) -> String {
        let name = format!("{}/layer:{}", self.registry, self.unique_tag());
        let (base, layer) = (self.base(), layer.to_string_lossy());
        let under: &[&str] = match over_base {
            true => &["--base", &base],
            false => &["--oci-empty-base"],
        };
        let append = ["append", "--new_layer", &layer, "--new_tag", &name];
        crane(&[&append, under].concat());
        let platform = platform();
        let mutate = ["mutate", &name, "--set-platform", &platform];
        crane(&[&mutate[..], &["--user", "65534", "--tag", &name]].concat());
        name
    }

    /// Pushes an OCI layout as it is.
    pub(crate) fn push_layout(&self, layout: &Path, repository: &str) {
        let name = format!("{}/{repository}:layout", self.registry);
        crane(&["push", "--index", &layout.to_string_lossy(), &name]);
    }

    fn base(&self) -> String {
        format!("{}/base:1", self.registry)
    }

    fn next(&self) -> u32 {
        self.counter.fetch_add(1, Ordering::Relaxed)
    }
}

fn platform() -> String {
    let architecture = match std::env::consts::ARCH {
        "aarch64" => "arm64",
        "x86_64" => "amd64",
        other => other,
    };
    format!("linux/{architecture}")
}

/// A root with busybox, the few names of it that tests use, and the directories a runtime mounts on.
fn write_layer(root: &Path, layer: &Path) {
    for directory in ["bin", "etc", "dev", "proc", "sys", "tmp"] {
        fs::create_dir_all(root.join(directory)).expect("the work directory is writable");
    }
    let path = std::env::var_os("PATH").unwrap_or_default();
    let busybox = std::env::split_paths(&path).map(|path| path.join("busybox"));
    let busybox = busybox
        .into_iter()
        .find(|path| path.is_file())
        .expect("the tier was checked");
    fs::copy(busybox, root.join("bin/busybox")).expect("busybox can be read");
    for name in ["cat", "cp", "echo", "ls", "sh", "sleep"] {
        symlink("busybox", root.join("bin").join(name)).expect("the work directory is writable");
    }
    run(
        "tar",
        &[
            "-C",
            &root.to_string_lossy(),
            "-cf",
            &layer.to_string_lossy(),
            ".",
        ],
    );
}

/// What crane writes.
pub(super) fn crane_output(arguments: &[&str]) -> String {
    let output = Command::new(tools().join("crane")).args(arguments).output();
    let output = output.unwrap_or_else(|error| panic!("cannot run crane: {error}"));
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(
        output.status.success(),
        "crane {}: {errors}",
        arguments.join(" ")
    );
    String::from_utf8_lossy(&output.stdout).into_owned()
}

fn crane(arguments: &[&str]) {
    run(&tools().join("crane").to_string_lossy(), arguments);
}
