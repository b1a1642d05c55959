//! The judges written in Python, from the environment that `make setup` makes.

use std::{
    ffi::{OsStr, OsString},
    path::{Path, PathBuf},
};

use super::{Ran, program};

/// Runs a script of the folder `python`.
pub async fn python<A: AsRef<OsStr>>(script: &str, arguments: impl IntoIterator<Item = A>) -> Ran {
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("python").join(script);
    let arguments = arguments.into_iter().map(|argument| argument.as_ref().to_owned());
    interpreter(std::iter::once(OsString::from(script)).chain(arguments)).await
}

/// Runs the interpreter.
///
/// # Panics
/// If the environment is not there.
pub async fn interpreter<A: AsRef<OsStr>>(arguments: impl IntoIterator<Item = A>) -> Ran {
    let python = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../.venv/bin/python");
    assert!(python.exists(), "{} is not there; `make setup` makes it", python.display());
    program(python, arguments).await
}

/// A file of the folder `fixtures`.
pub fn fixture(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("fixtures").join(name)
}
