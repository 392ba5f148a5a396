//! The pull secrets that logins make: their names, and their manifests.

use std::fmt;

use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use serde_json::{Value, json};

use crate::credential::docker_config::{PAYLOAD_BYTES_MAX, payload};
use crate::credential::keyring::without_user_info;
use crate::credential::{Login, SecretType};

use super::kubelet::{DOCKER_HUB, host_and_path};
use super::{Found, Row, State};

/// Longest name, in bytes: a rule is called as its pull secret, and its name is a label's value.
const NAME_BYTES_MAX: usize = 63;

/// The Secret of one registry host, or of all.
pub struct PullSecret {
    name: String,
    logins: Vec<(String, Login)>,
}

/// Without user names and passwords.
impl fmt::Debug for PullSecret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PullSecret")
            .field("name", &self.name)
            .finish_non_exhaustive()
    }
}

impl PullSecret {
    /// Its name, which is that of its rule too.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Its registry keys.
    pub fn keys(&self) -> impl Iterator<Item = &str> {
        self.logins.iter().map(|(key, _)| &**key)
    }

    /// Whether the API server would refuse it.
    pub fn is_too_large(&self) -> bool {
        self.payload().len() > PAYLOAD_BYTES_MAX
    }

    /// The manifest. Holds passwords.
    pub fn manifest(&self, namespace: &str) -> Value {
        let kind = SecretType::DockerConfigJson;
        json!({
            "apiVersion": "v1",
            "kind": "Secret",
            "metadata": {"name": self.name, "namespace": namespace},
            "type": kind.name(),
            "data": {kind.data_key(): BASE64_STANDARD.encode(self.payload())},
        })
    }

    fn payload(&self) -> String {
        payload(self.logins.iter().map(|(key, login)| (key.clone(), login)))
    }
}

/// Puts the logins that are used into pull secrets, one for each host or one called `into`, and says so in their rows.
pub(super) fn group(found: Vec<Found>, rows: &mut [Row], into: Option<&str>) -> Vec<PullSecret> {
    // Beside each pull secret its host.
    let mut secrets: Vec<(String, PullSecret)> = Vec::new();
    for (found, row) in found.into_iter().zip(rows) {
        let (State::Used, Ok(login)) = (row.state, found.login) else {
            continue;
        };
        let host = match into {
            Some(_) => String::new(),
            None => host_of(row.index_key.as_deref().unwrap_or_default()),
        };
        let at = secrets.iter().position(|(of, _)| *of == host);
        let at = at.unwrap_or_else(|| {
            let name = into.map_or_else(|| unused_name(&host, &secrets), ToOwned::to_owned);
            let logins = Vec::new();
            secrets.push((host, PullSecret { name, logins }));
            secrets.len() - 1
        });
        if let Some((_, secret)) = secrets.get_mut(at) {
            row.secret = Some(secret.name.clone());
            let key = without_user_info(&found.key);
            secret.logins.push((key, login));
        }
    }
    secrets.into_iter().map(|(_, secret)| secret).collect()
}

/// The host that an index key is of, Docker Hub under one name.
fn host_of(index_key: &str) -> String {
    match host_and_path(index_key).0 {
        DOCKER_HUB | "docker.io" => "docker-hub".to_owned(),
        host => host.to_owned(),
    }
}

/// A name for the pull secret of `host` that none of `secrets` has.
fn unused_name(host: &str, secrets: &[(String, PullSecret)]) -> String {
    let name = object_name(host);
    let is_unused = |name: &String| secrets.iter().all(|(_, secret)| secret.name != *name);
    let numbered = (2..).map(|number: usize| {
        let number = format!("-{number}");
        cut(&name, NAME_BYTES_MAX - number.len()) + &number
    });
    std::iter::once(name.clone())
        .chain(numbered)
        .find(is_unused)
        .unwrap_or(name)
}

/// `host` as a name of an object: a DNS subdomain, `any` for what `*` stands for.
fn object_name(host: &str) -> String {
    let name = host.to_ascii_lowercase().replace('*', "any");
    let name = name.replace(|c: char| !c.is_ascii_alphanumeric() && c != '.', "-");
    let labels = name.split('.').map(|label| label.trim_matches('-'));
    let labels: Vec<&str> = labels.filter(|label| !label.is_empty()).collect();
    match cut(&labels.join("."), NAME_BYTES_MAX) {
        name if name.is_empty() => "registry".to_owned(),
        name => name,
    }
}

/// The first bytes of a name, up to a letter or digit.
fn cut(name: &str, bytes_max: usize) -> String {
    let start: String = name.chars().take(bytes_max).collect();
    start.trim_end_matches(['-', '.']).to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_of_hosts_are_names_of_objects() {
        let check = |host: &str, expected: &str| assert_eq!(object_name(host), expected, "{host}");
        check("harbor.example.com", "harbor.example.com");
        check("R.io:5000", "r.io-5000");
        check("*.dkr.ecr.*.amazonaws.com", "any.dkr.ecr.any.amazonaws.com");
        check("[::1]:5000", "1--5000");
        check("a..-b-.c", "a.b.c");
        check("_", "registry");
        let long = format!("{}.example.com", "a".repeat(62));
        check(&long, &"a".repeat(62));
    }

    #[test]
    fn no_name_is_given_twice() {
        let mut secrets = Vec::new();
        for expected in ["r.io-5000", "r.io-5000-2", "r.io-5000-3"] {
            let name = unused_name("r.io:5000", &secrets);
            assert_eq!(name, expected);
            let logins = Vec::new();
            secrets.push((String::new(), PullSecret { name, logins }));
        }
    }
}
