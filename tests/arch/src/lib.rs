//! What the architecture tests look at: the workspace's manifests as Cargo resolves them, and its source text.
//!
//! Everything here panics on failure: it serves tests alone, and a message with the file in it is all that they need.

use std::ffi::OsStr;
use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::Value;

/// The folder of the workspace's `Cargo.toml`.
pub fn root() -> PathBuf {
    let here = Path::new(env!("CARGO_MANIFEST_DIR"));
    here.ancestors().nth(2).expect("this crate lies two folders below the workspace").to_path_buf()
}

/// The text of a file, named from [`root`].
pub fn text(path: &str) -> String {
    read(&root().join(path))
}

/// One manifest of the workspace.
#[derive(Debug)]
pub struct Crate {
    /// The package's name, without the `isocenter-` prefix.
    pub name: String,
    /// The folder of its `Cargo.toml`, named from [`root`], such as `services/routing`.
    pub folder: String,
    /// What it names in `[dependencies]`, `[build-dependencies]` and `[dev-dependencies]`.
    pub dependencies: Vec<Dependency>,
}

/// One line of a dependency table.
#[derive(Debug)]
pub struct Dependency {
    /// The package's name; our own crates without the `isocenter-` prefix.
    pub name: String,
    /// Whether it is a crate of this workspace.
    pub own: bool,
    /// Whether only tests get it.
    pub dev: bool,
    /// The features it is asked for, those of the workspace's line included.
    pub features: Vec<String>,
}

/// Every crate of the workspace, in the order of Cargo's answer.
pub fn crates() -> Vec<Crate> {
    let answer = cargo(&["metadata", "--format-version", "1", "--locked", "--no-deps"]);
    let answer: Value = serde_json::from_str(&answer).expect("cargo metadata answers in JSON");
    array(&answer, "packages").iter().map(read_crate).collect()
}

fn read_crate(package: &Value) -> Crate {
    let manifest = Path::new(string(package, "manifest_path"));
    let folder = manifest.parent().expect("a manifest lies in a folder");
    let folder = folder.strip_prefix(root()).expect("a member lies inside the workspace");
    Crate {
        name: short(string(package, "name")).to_owned(),
        folder: folder.to_str().expect("our folders are ASCII").to_owned(),
        dependencies: array(package, "dependencies").iter().map(read_dependency).collect(),
    }
}

fn read_dependency(dependency: &Value) -> Dependency {
    let features = array(dependency, "features").iter();
    Dependency {
        name: short(string(dependency, "name")).to_owned(),
        own: dependency.get("path").is_some(),
        dev: dependency["kind"] == "dev",
        features: features.map(|f| f.as_str().expect("a feature is a string").to_owned()).collect(),
    }
}

fn short(package: &str) -> &str {
    package.strip_prefix("isocenter-").unwrap_or(package)
}

fn array<'a>(value: &'a Value, field: &str) -> &'a [Value] {
    value[field].as_array().unwrap_or_else(|| panic!("cargo metadata has a list {field}"))
}

fn string<'a>(value: &'a Value, field: &str) -> &'a str {
    value[field].as_str().unwrap_or_else(|| panic!("cargo metadata has a string {field}"))
}

/// Every package that is really compiled for this machine when `arguments` (such as `-p isocenter-domain`) are built, with
/// its licence expression, sorted. `cargo tree` is asked because `cargo metadata` lists optional packages that no feature
/// turns on.
pub fn compiled(arguments: &[&str]) -> Vec<(String, String)> {
    let mut command = vec!["tree", "--locked", "--prefix", "none", "--format", "{p}|{l}"];
    command.extend(arguments);
    let mut packages: Vec<(String, String)> = cargo(&command)
        .lines()
        .filter(|line| !line.is_empty())
        .map(|line| {
            // The star marks a package whose own dependencies were listed further up.
            let line = line.strip_suffix(" (*)").unwrap_or(line);
            let (package, licence) = line.split_once('|').expect("the format has one bar");
            let name = package.split(' ').next().expect("a split has a first part");
            (name.to_owned(), licence.to_owned())
        })
        .collect();
    packages.sort();
    packages.dedup();
    assert!(!packages.is_empty(), "cargo tree {arguments:?} listed nothing");
    packages
}

fn cargo(arguments: &[&str]) -> String {
    let cargo = std::env::var("CARGO").unwrap_or_else(|_| "cargo".to_owned());
    let output = Command::new(cargo).args(arguments).current_dir(root()).output().expect("cargo starts");
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "cargo {arguments:?}: {errors}");
    String::from_utf8(output.stdout).expect("cargo answers in UTF-8")
}

/// One Rust source file.
#[derive(Debug)]
pub struct Source {
    /// Its path, named from [`root`].
    pub path: String,
    /// Its text.
    pub text: String,
}

impl Source {
    /// The lines of the product: what comes before the file's own test module, all of it where there is none.
    pub fn product_lines(&self) -> Vec<&str> {
        let lines: Vec<&str> = self.text.lines().collect();
        let tests = lines.windows(2).position(|pair| pair[0] == "#[cfg(test)]" && pair[1].ends_with('{'));
        lines[..tests.unwrap_or(lines.len())].to_vec()
    }

    /// Whether the whole file is tests: `tests.rs`, or a file in a folder of that name.
    pub fn is_test(&self) -> bool {
        let mut parts = self.path.split('/').rev();
        parts.next() == Some("tests.rs") || parts.any(|folder| folder == "tests")
    }
}

/// Every Rust file below `folder/*/src`, where `folder` is named from [`root`], sorted by path.
pub fn sources(folder: &str) -> Vec<Source> {
    let members = entries(&root().join(folder));
    members.iter().flat_map(|member| rust_files(&member.join("src"))).map(|path| source(&path)).collect()
}

fn rust_files(folder: &Path) -> Vec<PathBuf> {
    let mut files = Vec::new();
    for entry in entries(folder) {
        if entry.is_dir() {
            files.extend(rust_files(&entry));
        } else if entry.extension() == Some(OsStr::new("rs")) {
            files.push(entry);
        }
    }
    files
}

fn source(path: &Path) -> Source {
    let name = path.strip_prefix(root()).expect("a source lies inside the workspace");
    Source { path: name.to_str().expect("our paths are ASCII").to_owned(), text: read(path) }
}

fn entries(folder: &Path) -> Vec<PathBuf> {
    let listing = std::fs::read_dir(folder).unwrap_or_else(|error| panic!("{}: {error}", folder.display()));
    let mut paths: Vec<PathBuf> = listing.map(|entry| entry.expect("a folder can be read").path()).collect();
    paths.sort();
    paths
}

fn read(path: &Path) -> String {
    std::fs::read_to_string(path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}
