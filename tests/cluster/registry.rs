//! The registry kit: real registries with passwords, tokens and moods, under the names of the world.
//!
//! Every registry is a process of its own with its own way to let people in, but all share one
//! store: an image is pushed once, to the open one, and is then to be had from each under the same
//! repository. Real names (`docker.io`, `harbor.example.com`) lead to loopback by containerd's
//! `hosts.toml`; some addresses of literal image names are made on the bridge.

mod distribution;
mod hosts;
mod images;
mod mood;
mod private;
mod token;

use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use axum::Router;
use axum::http::StatusCode;
use serde_json::{Value, json};

use distribution::{Auth, Registry};
use images::Images;
use mood::MoodProxy;
use private::Private;
pub(crate) use token::Account;
use token::TokenServer;

use crate::harness::namespace::{docker_config, pull_secret};
use crate::harness::pki::Pki;
use crate::harness::sandbox::run;
use crate::harness::serve::{Server, serve};
use crate::harness::tier::tools;

/// Anyone may pull. On every address, so that it is also a plain-HTTP registry where containerd
/// expects TLS.
const OPEN: &str = "127.0.0.1:5099";
/// Asks for tokens.
const TOKENS: &str = "127.0.0.5:5000";
/// Shows a certificate nobody trusts.
const UNTRUSTED: &str = "10.39.0.118:5443";

/// A registry that one user with one password may pull from.
#[derive(Debug)]
pub(crate) struct Login {
    /// `host:port` as image names hold it.
    pub(crate) host: &'static str,
    /// Its only user.
    pub(crate) user: &'static str,
    /// The user's password.
    pub(crate) password: &'static str,
    /// The same password as bcrypt hashes it (cost 4: the passwords are public anyway).
    hash: &'static str,
}

impl Login {
    /// A Secret with this login under the registry's own name; the Secret is named as the user.
    pub(crate) fn secret(&self) -> Value {
        pull_secret(self.user, &docker_config(&[self.entry()]))
    }

    /// Key, user and password, as [`docker_config`] takes them.
    pub(crate) fn entry(&self) -> (&str, &str, &str) {
        (self.host, self.user, self.password)
    }
}

/// A registry with a colon in its password.
pub(crate) const ALPHA: Login = Login {
    host: "127.0.0.2:5000",
    user: "alpha",
    password: "alpha-pass:with:colons",
    hash: "$2y$04$pullpasstestregistry.urLiCHPw5Sw5DifS.BMnAxTXAU8VZwMq",
};
/// Another registry, with a space in its password.
pub(crate) const BETA: Login = Login {
    host: "127.0.0.3:5000",
    user: "beta",
    password: "beta password",
    hash: "$2y$04$pullpasstestregistry.uu0hu0r9lSzsIGACTiWcdAyBprD5ku3S",
};
/// The first of two registries on one address, as a Nexus has them.
pub(crate) const NEXUS_4443: Login = Login {
    host: "127.0.0.4:4443",
    user: "nexus-4443",
    password: "first port",
    hash: "$2y$04$pullpasstestregistry.uiISmswYGd6Mx7t7r9d3hdHbsV.MF3kG",
};
/// The second of them.
pub(crate) const NEXUS_8082: Login = Login {
    host: "127.0.0.4:8082",
    user: "nexus-8082",
    password: "second port",
    hash: "$2y$04$pullpasstestregistry.useO9R2twC66gak4vrCv2S81YqpiXmAi",
};
/// A registry on a bare address with a port; its login is in one of the files that are imported.
pub(crate) const LITERAL_ADDRESS: Login = Login {
    host: "10.39.0.12:5000",
    user: "janedoe",
    password: "hunter2-c",
    hash: "$2y$04$pullpasstestregistry.umOPLJRxuNw5.cKAAx.VsKme6a1L5q8S",
};

/// A registry that a trial starts for itself.
pub(crate) const PROBED: Login = Login {
    host: "127.0.0.6:5000",
    user: "probed",
    ..ALPHA
};

/// Real names that lead to the registry that asks for tokens.
const TOKEN_HOSTS: &[&str] = &[
    "quay.io",
    "gcr.io",
    "us.gcr.io",
    "ghcr.io",
    "docker.pkg.github.com",
    "registry.cn-hangzhou.aliyuncs.com",
    "registry-vpc.cn-hangzhou.aliyuncs.com",
    "acme-registry.cn-shanghai.cr.aliyuncs.com",
    "123456789012.dkr.ecr.eu-west-1.amazonaws.com",
    "example.azurecr.io",
    "token.azurecr.io",
    "principal.azurecr.io",
    "harbor.example.com",
    "registry.example.com",
    "r.example.com:443",
    "my-private-registry.infra",
    "my-registry.cn",
    "10.39.0.118",
    "acme.tencentcloudcr.com",
    "de.icr.io",
    "europe-docker.pkg.dev",
    "europe-west1-docker.pkg.dev",
    "nexus.example.com:8082",
    "registry.gitlab.com",
];

/// The registries of the cluster.
pub(crate) struct Kit {
    /// Accounts of the registry that asks for tokens, whatever name leads there.
    pub(crate) tokens: Arc<TokenServer>,
    images: Images,
    hosts: PathBuf,
    at: PathBuf,
    logs: PathBuf,
    _registries: Vec<Registry>,
    _hub: MoodProxy,
}

impl Kit {
    /// Starts the registries, makes the images and writes how containerd reaches them into `hosts`.
    pub(crate) fn start(pki: &Pki, workdir: &Path, hosts: &Path, logs: &Path) -> Self {
        let at = workdir.join("registries");
        let tokens = Arc::new(TokenServer::start(pki));
        let untrusted = Pki::create(&at.join("untrusted")).server("registry", &["10.39.0.118"]);
        let mut registries = vec![
            Registry::start("open", "0.0.0.0:5099", &Auth::Open, None, &at, logs),
            Registry::start("tokens", TOKENS, &tokens.auth(), None, &at, logs),
            Registry::start(
                "untrusted",
                UNTRUSTED,
                &Auth::Open,
                Some(&untrusted),
                &at,
                logs,
            ),
        ];
        for login in [&ALPHA, &BETA, &NEXUS_4443, &NEXUS_8082, &LITERAL_ADDRESS] {
            let auth = Auth::Password {
                user: login.user,
                hash: login.hash,
            };
            registries.push(Registry::start(
                login.user, login.host, &auth, None, &at, logs,
            ));
        }
        // Docker Hub has a limit for those who come without a name.
        let hub = MoodProxy::start(address(TOKENS), 429);
        hosts::lead(hosts, "docker.io", hub.address());
        hosts::lead(hosts, LITERAL_ADDRESS.host, address(LITERAL_ADDRESS.host));
        for host in TOKEN_HOSTS {
            hosts::lead(hosts, host, address(TOKENS));
        }
        for registry in &registries {
            registry.wait_until_ready();
        }
        let images = Images::create(OPEN, &at);
        let hosts = hosts.to_owned();
        Self {
            tokens,
            images,
            hosts,
            at,
            logs: logs.to_owned(),
            _registries: registries,
            _hub: hub,
        }
    }

    /// The image of every Pod's sandbox.
    pub(crate) fn pause_image(&self) -> String {
        self.images.pause()
    }

    /// Pushes a fresh image with this repository and tag; every registry has it then.
    pub(crate) fn push(&self, repository: &str, tag: &str) {
        self.images.push(repository, tag);
    }

    /// Pushes a fresh image that sleeps for ever, under a tag that nothing else has, and gives its
    /// whole name at `host`.
    pub(crate) fn fresh(&self, host: &str, repository: &str) -> String {
        let tag = self.images.unique_tag();
        self.push(repository, &tag);
        format!("{host}/{repository}:{tag}")
    }

    /// Pushes an OCI layout, and gives the name of its repository at the registry where anyone may pull.
    pub(crate) fn push_layout(&self, layout: &Path, repository: &str) -> String {
        self.images.push_layout(layout, repository);
        format!("{OPEN}/{repository}")
    }

    /// Pushes an image of a program of the tools, and gives its name where anyone may pull: in `/plugins` over an image that
    /// can copy it, or at the root of nothing else.
    pub(crate) fn push_program(&self, program: &str, can_copy: bool) -> String {
        let layer = self.at.join(format!("{program}-{can_copy}.tar"));
        let (directory, path) = (tools(), layer.to_string_lossy());
        let prefix = if can_copy { "plugins/" } else { "" };
        run(
            "tar",
            &[
                "-C",
                &directory.to_string_lossy(),
                "--owner=0",
                "--group=0",
                "--mode=0755",
                &format!("--transform=s,^,{prefix},"),
                "-cf",
                &path,
                program,
            ],
        );
        self.images.push_layer(&layer, can_copy)
    }

    /// What crane says of an image.
    pub(crate) fn crane(&self, arguments: &[&str]) -> String {
        images::crane_output(arguments)
    }

    /// A fresh image that anyone may pull.
    pub(crate) fn fresh_public(&self, repository: &str) -> String {
        self.fresh(OPEN, repository)
    }

    /// Leads `host` to a proxy that answers whoever comes without a name with `status`.
    pub(crate) fn moody(&self, host: &str, status: u16) -> MoodProxy {
        let proxy = MoodProxy::start(address(TOKENS), status);
        hosts::lead(&self.hosts, host, proxy.address());
        proxy
    }

    /// Leads `host` to a server that answers everybody with `status`.
    pub(crate) fn answering(&self, host: &str, status: StatusCode) -> Server {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("a port is free");
        let router = Router::new().fallback(move || async move { status });
        let server = serve(listener, None, router);
        hosts::lead(&self.hosts, host, server.address);
        server
    }

    /// Starts a registry that only this login may pull from.
    pub(crate) fn private(&self, login: &'static Login) -> Private {
        Private::start(login, self.at.clone(), self.logs.clone())
    }

    /// Leads `host` in plain HTTP to a registry that expects TLS.
    pub(crate) fn lead_plain(&self, host: &str) {
        hosts::lead(&self.hosts, host, address(UNTRUSTED));
    }

    /// Pushes an index that has an image for another architecture than any that tests run on, and nothing else,
    /// where anyone may pull.
    pub(crate) fn other_platform(&self, repository: &str) -> String {
        let image = self.fresh_public(repository);
        let foreign = [
            "mutate",
            &image,
            "--set-platform",
            "linux/s390x",
            "--tag",
            &image,
        ];
        self.crane(&foreign);
        self.crane(&["index", "append", "--manifest", &image, "--tag", &image]);
        image
    }

    /// `host:port` of a registry whose certificate nobody trusts.
    pub(crate) fn untrusted(&self) -> &'static str {
        UNTRUSTED
    }

    /// `host:port` of a registry that speaks plain HTTP where containerd expects TLS.
    pub(crate) fn plain_http(&self) -> &'static str {
        "10.39.0.118:5099"
    }
}

/// A docker config for one account of the registry that asks for tokens, under the key `key`.
pub(crate) fn token_config(key: &str, account: &Account) -> Value {
    docker_config(&[(key, &account.user, &account.password)])
}

fn address(text: &str) -> SocketAddr {
    text.parse().expect("a constant address is valid")
}

/// What distribution reads as its configuration: JSON is YAML.
fn base_config(store: &Path, listen: &str) -> Value {
    json!({
        "version": "0.1",
        "log": {"level": "info", "accesslog": {"disabled": false}},
        "storage": {
            "filesystem": {"rootdirectory": store},
            "maintenance": {"uploadpurging": {"enabled": false}},
        },
        "http": {"addr": listen, "secret": "the same for all"},
    })
}
