//! What the compiler and clippy do not check about the source text: sizes, the shape of a service, words that must not be.

use std::path::Path;

use isocenter_tests_arch::{Source, root, sources};

/// Lines of product in a file.
const FILE_LIMIT: usize = 500;
/// Lines in the binary's `main.rs`: parse, build, run, exit code.
const MAIN_LIMIT: usize = 60;
/// Files that may be longer because they are one table, each with the reason.
const TABLES: &[(&str, &str)] = &[];
/// What every service has beside `lib.rs`, as a file or as a folder of that name.
const SERVICE_MODULES: &[&str] = &["config", "plan", "reconcile", "rpc", "error", "metrics"];
/// What starts a task without saying what its end means; `runtime::task` is the one place for it.
const SPAWNS: &[&str] = &["tokio::spawn", "task::spawn(", "task::spawn_local"];
/// What a decision cannot contain, because it would make it depend on more than its arguments.
const OUTSIDE: &[&str] = &[
    "async ",
    ".await",
    "tokio::",
    "std::fs",
    "std::net",
    "std::env",
    "std::process",
    "std::thread",
    "SystemTime",
];
/// What marks a thing as unfinished.
const UNFINISHED: &[&str] = &["TODO", "FIXME", "todo!", "unimplemented!", "#[ignore"];

fn product() -> Vec<Source> {
    ["crates", "services"].iter().flat_map(|folder| sources(folder)).collect()
}

/// Where a line of code, comments left out, contains one of `words`.
fn mentions(source: &Source, words: &[&str]) -> Vec<String> {
    let lines = source.product_lines();
    let code = lines.iter().enumerate().filter(|(_, line)| !line.trim_start().starts_with("//"));
    code.filter(|(_, line)| words.iter().any(|word| line.contains(word)))
        .map(|(number, line)| format!("{}:{}: {}", source.path, number + 1, line.trim()))
        .collect()
}

#[test]
fn files_stay_short() {
    let mut found = Vec::new();
    for source in product().iter().filter(|source| !source.is_test()) {
        let table = TABLES.iter().any(|(path, _)| *path == source.path);
        let lines = source.product_lines().len();
        if lines > FILE_LIMIT && !table {
            found.push(format!("{}: {lines} lines", source.path));
        }
    }
    assert!(found.is_empty(), "longer than {FILE_LIMIT} lines: {found:#?}");
}

#[test]
fn main_stays_short() {
    let lines = isocenter_tests_arch::text("services/isocenter/src/main.rs").lines().count();
    assert!(lines <= MAIN_LIMIT, "services/isocenter/src/main.rs has {lines} lines, more than {MAIN_LIMIT}");
}

#[test]
fn tasks_are_started_through_the_runtime() {
    let files = product().into_iter().filter(|source| !source.path.starts_with("crates/runtime/src/task"));
    let found: Vec<String> = files.flat_map(|source| mentions(&source, SPAWNS)).collect();
    assert!(found.is_empty(), "use runtime::task::Tasks: {found:#?}");
}

#[test]
fn decisions_perform_no_io() {
    let pure = ["crates/domain/", "crates/policy/", "crates/assign/"];
    let decides = |path: &str| {
        pure.iter().any(|folder| path.starts_with(folder))
            || path.ends_with("/plan.rs")
            || path.contains("/plan/")
    };
    let files = product().into_iter().filter(|source| decides(&source.path) && !source.is_test());
    let found: Vec<String> = files.flat_map(|source| mentions(&source, OUTSIDE)).collect();
    assert!(found.is_empty(), "a decision depends on its arguments alone: {found:#?}");
}

#[test]
fn nothing_is_left_unfinished() {
    let mut found = Vec::new();
    for source in product().iter().chain(&sources("tests")) {
        // This file has to name the words; the comments count, unlike elsewhere.
        let lines = source.text.lines().enumerate();
        let bad = lines.filter(|(_, line)| UNFINISHED.iter().any(|word| line.contains(word)));
        found.extend(bad.map(|(number, line)| format!("{}:{}: {}", source.path, number + 1, line.trim())));
    }
    assert!(found.is_empty(), "what is not finished is not there: {found:#?}");
}

#[test]
fn services_have_the_same_files() {
    let mut found = Vec::new();
    for entry in std::fs::read_dir(root().join("services")).expect("the services folder can be read") {
        let service = entry.expect("the services folder can be read").path();
        if service.ends_with("isocenter") {
            continue;
        }
        let source = service.join("src");
        let has = |module: &str| {
            let file = Path::new(module).with_extension("rs");
            source.join(file).is_file() || source.join(module).join("mod.rs").is_file()
        };
        for module in SERVICE_MODULES.iter().chain(&["lib"]).filter(|module| !has(module)) {
            found.push(format!("{} has no {module}.rs", service.display()));
        }
    }
    found.sort();
    assert!(found.is_empty(), "know one service, know all: {found:#?}");
}
