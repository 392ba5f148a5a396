//! The result of one look, and what the API server said where there is none. This file must not judge.

/// The result of one look.
#[derive(Debug, Clone, PartialEq)]
pub enum Looked<T> {
    /// There, and read.
    Seen(T),
    /// The API server says that there is none.
    Absent,
    /// The caller has not the right; the API server's words.
    Denied(String),
    /// No answer, or none that could be read.
    Failed(String),
}

impl<T> Looked<T> {
    /// What became of a call.
    pub fn of(result: kube::Result<T>) -> Self {
        match result {
            Ok(object) => Self::Seen(object),
            Err(kube::Error::Api(status)) => match status.code {
                404 => Self::Absent,
                401 | 403 => Self::Denied(status.message),
                _ => Self::Failed(status.message),
            },
            Err(error) => Self::Failed(words(error)),
        }
    }

    /// What was read.
    pub fn seen(&self) -> Option<&T> {
        match self {
            Self::Seen(object) => Some(object),
            _ => None,
        }
    }

    /// The same look, of another kind of thing.
    pub fn map<U>(self, read: impl FnOnce(T) -> U) -> Looked<U> {
        self.and_then(|object| Looked::Seen(read(object)))
    }

    /// Looks closer at what was read.
    pub(super) fn and_then<U>(self, look: impl FnOnce(T) -> Looked<U>) -> Looked<U> {
        match self {
            Self::Seen(object) => look(object),
            Self::Absent => Looked::Absent,
            Self::Denied(said) => Looked::Denied(said),
            Self::Failed(said) => Looked::Failed(said),
        }
    }
}

/// What is said of an answer that cannot be read: not the reader's words, which may quote a Secret.
pub(super) const UNREADABLE: &str = "the answer cannot be read";

/// The API server's own words where there are any.
pub(super) fn words(error: kube::Error) -> String {
    match error {
        kube::Error::Api(status) => status.message,
        kube::Error::SerdeError(_) => UNREADABLE.to_owned(),
        other => other.to_string(),
    }
}
