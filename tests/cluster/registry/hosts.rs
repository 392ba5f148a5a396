//! How containerd reaches a registry host: it reads `<hosts>/<host>/hosts.toml` at every pull.

use std::fs;
use std::net::SocketAddr;
use std::path::Path;

/// Leads `host` to plain HTTP at `address`.
pub(crate) fn lead(hosts: &Path, host: &str, address: SocketAddr) {
    let directory = hosts.join(host);
    fs::create_dir_all(&directory).expect("the work directory is writable");
    let text = format!(
        "server = \"http://{address}\"\n\
         [host.\"http://{address}\"]\n\
         capabilities = [\"pull\", \"resolve\"]\n"
    );
    fs::write(directory.join("hosts.toml"), text).expect("the work directory is writable");
}
