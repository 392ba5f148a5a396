//! One image pattern, `HOST[:PORT][/PATH]`, parsed and classified.

/// A checked image pattern.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RegistryPattern {
    text: String,
}

impl RegistryPattern {
    /// The pattern as the user wrote it.
    pub fn as_str(&self) -> &str {
        &self.text
    }
}
