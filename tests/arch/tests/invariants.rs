//! Every invariant that ARCHITECTURE.md states names the tests that would fail without it, and those tests exist.
//!
//! An item of its list "Invariants" names them in backticks, as `path/from/the/root.rs::test_function`.

use std::collections::BTreeMap;

use isocenter_tests_arch::{root, text};

/// How many invariants the architecture states.
const INVARIANTS: usize = 10;

/// The numbered items of the section, by number, each with the lines that continue it.
fn items() -> BTreeMap<usize, String> {
    let document = text("ARCHITECTURE.md");
    let section =
        document.lines().skip_while(|line| !(line.starts_with("## ") && line.contains("Invariants")));
    let mut items: BTreeMap<usize, String> = BTreeMap::new();
    let mut current = None;
    for line in section.skip(1).take_while(|line| !line.starts_with("## ")) {
        if let Some((number, _)) = line.split_once(". ")
            && let Ok(number) = number.parse::<usize>()
        {
            current = Some(number);
        }
        if let Some(number) = current {
            items.entry(number).or_default().push_str(line);
            items.entry(number).or_default().push('\n');
        }
    }
    items
}

/// The tests that an item names: file and function.
fn named(item: &str) -> Vec<(&str, &str)> {
    let quoted = item.split('`').skip(1).step_by(2);
    quoted.filter_map(|text| text.split_once("::")).filter(|(path, _)| path.ends_with(".rs")).collect()
}

/// Whether `text` has a function of that name under a test attribute.
fn has_test(text: &str, function: &str) -> bool {
    let lines: Vec<&str> = text.lines().map(str::trim_start).collect();
    let head = format!("fn {function}(");
    let starts = lines.iter().enumerate().filter(|(_, line)| !line.starts_with("//") && line.contains(&head));
    starts.map(|(at, _)| lines[..at].iter().rev()).any(|above| {
        let mut above = above.take_while(|line| line.starts_with("#[") || line.starts_with("//"));
        above.any(|line| line.contains("test]") || line.contains("test("))
    })
}

#[test]
fn every_invariant_names_a_test_that_exists() {
    let items = items();
    let numbers: Vec<usize> = items.keys().copied().collect();
    assert_eq!(numbers, (1..=INVARIANTS).collect::<Vec<_>>(), "the invariants of ARCHITECTURE.md");
    let mut found = Vec::new();
    for (number, item) in &items {
        let named = named(item);
        if named.is_empty() {
            found.push(format!("invariant {number} names no test"));
        }
        for (path, function) in named {
            let file = std::fs::read_to_string(root().join(path)).unwrap_or_default();
            if !has_test(&file, function) {
                found.push(format!("invariant {number}: there is no test {path}::{function}"));
            }
        }
    }
    assert!(found.is_empty(), "{found:#?}");
}

#[test]
fn a_helper_or_a_comment_is_not_a_test() {
    let file = "fn helper() {}\n// fn quoted() {}\n#[test]\n// Why.\nfn real() {}\n#[tokio::test(start_paused = true)]\nasync fn paused() {}\n";
    let tests: Vec<bool> =
        ["helper", "quoted", "real", "paused", "absent"].map(|name| has_test(file, name)).into();
    assert_eq!(tests, [false, false, true, true, false]);
}
