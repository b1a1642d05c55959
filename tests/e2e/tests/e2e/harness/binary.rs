//! The binary under test, and programs of others.

use std::{
    env,
    ffi::OsStr,
    path::{Path, PathBuf},
    process::{Command, Output, Stdio},
    sync::OnceLock,
};

use super::PATIENCE;

/// The binary. `ISOCENTER_BINARY` names one to be judged, such as that of an image; otherwise the one beside this test is
/// brought up to date, under cargo's own lock, since a test crate cannot depend on another crate's binary.
///
/// # Panics
/// If it does not build.
pub fn isocenter() -> &'static Path {
    static BUILT: OnceLock<PathBuf> = OnceLock::new();
    BUILT.get_or_init(|| env::var_os("ISOCENTER_BINARY").map_or_else(build, PathBuf::from))
}

fn build() -> PathBuf {
    let this = env::current_exe().expect("a test knows its own path");
    // TARGET/PROFILE/deps/e2e-HASH
    let profile = this.ancestors().nth(2).expect("tests lie in a target folder");
    let target = profile.parent().expect("a profile's folder lies in a target folder");
    let mut cargo = Command::new(env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    cargo.args(["build", "--quiet", "--locked", "--package", "isocenter", "--target-dir"]).arg(target);
    if profile.ends_with("release") {
        cargo.arg("--release");
    }
    let built = cargo.current_dir(env!("CARGO_MANIFEST_DIR")).stdin(Stdio::null()).output();
    let built = built.expect("cargo runs");
    assert!(built.status.success(), "isocenter does not build: {}", String::from_utf8_lossy(&built.stderr));
    profile.join("isocenter")
}

/// A program that ended.
#[derive(Debug)]
pub struct Ran {
    /// Its exit code; -1 where a signal ended it.
    pub code: i32,
    /// What it wrote to stdout.
    pub stdout: String,
    /// What it wrote to stderr.
    pub stderr: String,
}

impl Ran {
    /// Its stdout.
    ///
    /// # Panics
    /// If it did not exit with 0.
    pub fn succeeded(self) -> String {
        assert_eq!(self.code, 0, "{self:?}");
        self.stdout
    }

    /// Its stdout as JSON.
    ///
    /// # Panics
    /// If it did not exit with 0, or wrote something else.
    pub fn json(self) -> serde_json::Value {
        let text = self.succeeded();
        serde_json::from_str(&text).unwrap_or_else(|e| panic!("not JSON, {e}: {text}"))
    }
}

impl From<Output> for Ran {
    fn from(output: Output) -> Self {
        let text = |bytes: Vec<u8>| String::from_utf8_lossy(&bytes).into_owned();
        let code = output.status.code().unwrap_or(-1);
        Self { code, stdout: text(output.stdout), stderr: text(output.stderr) }
    }
}

/// Runs a program to its end.
///
/// # Panics
/// If it is not installed, or does not end within the patience that the tests have, thrice.
pub async fn program<A: AsRef<OsStr>>(
    name: impl AsRef<OsStr>,
    arguments: impl IntoIterator<Item = A>,
) -> Ran {
    let name = name.as_ref();
    let mut command = tokio::process::Command::new(name);
    let running = command.args(arguments).stdin(Stdio::null()).kill_on_drop(true).output();
    let ended = tokio::time::timeout(3 * PATIENCE, running).await;
    let ended = ended.unwrap_or_else(|_| panic!("{} does not end", name.display()));
    let ended =
        ended.unwrap_or_else(|e| panic!("{} does not start ({e}); `make setup` installs it", name.display()));
    ended.into()
}
