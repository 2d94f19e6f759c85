//! What can go wrong between us and the kernel.

use std::path::PathBuf;

/// An error of this crate. Its text says what to do next where that is known.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// libbpf or the kernel refused something.
    #[error("{what}: {source}")]
    Bpf {
        /// What was tried.
        what: String,
        /// libbpf's words.
        source: libbpf_rs::Error,
    },
    /// A system call failed.
    #[error("{what}: {source}")]
    Io {
        /// What was tried.
        what: String,
        /// The system's words.
        source: std::io::Error,
    },
    /// Another agent owns this state directory.
    #[error("another beeway agent owns {0}; stop it, or choose another --state directory")]
    Locked(PathBuf),
    /// The tables do not fit.
    #[error(transparent)]
    Tables(#[from] crate::tables::Error),
}

/// This crate's result.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// Says what was tried when an operation fails.
pub(crate) trait Context<T> {
    fn context(self, what: impl FnOnce() -> String) -> Result<T>;
}

impl<T> Context<T> for libbpf_rs::Result<T> {
    fn context(self, what: impl FnOnce() -> String) -> Result<T> {
        self.map_err(|source| Error::Bpf { what: what(), source })
    }
}

impl<T> Context<T> for std::io::Result<T> {
    fn context(self, what: impl FnOnce() -> String) -> Result<T> {
        self.map_err(|source| Error::Io { what: what(), source })
    }
}
