//! Decoding of the two docker config shapes with Go's JSON habits.

/// Which of the two Secret types a payload comes from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SecretType {
    /// `kubernetes.io/dockerconfigjson`, data key `.dockerconfigjson`.
    DockerConfigJson,
    /// `kubernetes.io/dockercfg`, data key `.dockercfg`.
    DockerCfg,
}

/// A decoded payload: one entry per registry key, sorted by key.
#[derive(Debug)]
pub struct DockerConfig {
    entries: Vec<Entry>,
}

/// One registry key and what it holds. `Debug` shows no password.
pub struct Entry {
    /// The key as written.
    pub key: String,
    /// The user name, from `auth` if that is not empty, else from `username`.
    pub username: String,
    password: String,
}

impl std::fmt::Debug for Entry {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Entry")
            .field("key", &self.key)
            .finish_non_exhaustive()
    }
}

impl Entry {
    /// Whether a runtime would log in with it: user name and password are both there. An entry
    /// without them still matches in the kubelet, which then pulls anonymously.
    pub fn is_usable(&self) -> bool {
        !self.username.is_empty() && !self.password.is_empty()
    }
}

impl DockerConfig {
    /// Decodes a payload as the kubelet does.
    ///
    /// # Errors
    /// [`DecodeError`] where the kubelet's decoder fails, which fails every image of the Pod.
    pub fn decode(_kind: SecretType, _payload: &[u8]) -> Result<Self, DecodeError> {
        todo!()
    }

    /// The entries, sorted by key.
    pub fn entries(&self) -> &[Entry] {
        &self.entries
    }
}

/// Why the kubelet refuses a payload. Never holds a byte of a user name or password.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum DecodeError {
    /// Placeholder.
    #[error("not JSON")]
    NotJson,
}
