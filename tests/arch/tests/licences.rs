//! What is compiled into Isocenter carries a permissive licence and is not banned: deny.toml, read without cargo-deny.

use isocenter_tests_arch::{compiled, text};

/// The strings of one list in deny.toml: all of them, or those that follow `key = ` in each line.
fn listed(list: &str, key: Option<&str>) -> Vec<String> {
    let file = text("deny.toml");
    let start = file.find(&format!("\n{list} = [")).unwrap_or_else(|| panic!("deny.toml has a list {list}"));
    let body = file[start..].lines().skip(2).take_while(|line| !line.starts_with(']'));
    let strings = body.filter_map(|line| {
        let after =
            key.map_or(Some(line), |key| line.split_once(&format!("{key} = ")).map(|(_, after)| after));
        after.and_then(|after| after.split('"').nth(1)).map(str::to_owned)
    });
    let strings: Vec<String> = strings.collect();
    assert!(!strings.is_empty(), "deny.toml lists nothing under {list}");
    strings
}

/// Whether an SPDX licence expression (SPDX 2.3, annex D) can be met with `allowed` alone. The slash is how crates wrote
/// OR before they wrote SPDX.
fn is_met(expression: &str, allowed: &[String]) -> bool {
    let spaced = expression.replace('/', " OR ").replace('(', " ( ").replace(')', " ) ");
    let words: Vec<&str> = spaced.split_whitespace().collect();
    let (met, rest) = any(&words, allowed);
    assert!(rest.is_empty(), "{expression}: {rest:?} is left over");
    met
}

fn any<'w, 's>(words: &'w [&'s str], allowed: &[String]) -> (bool, &'w [&'s str]) {
    let (mut met, mut rest) = all(words, allowed);
    while let Some((&"OR", after)) = rest.split_first() {
        let (other, after) = all(after, allowed);
        (met, rest) = (met || other, after);
    }
    (met, rest)
}

fn all<'w, 's>(words: &'w [&'s str], allowed: &[String]) -> (bool, &'w [&'s str]) {
    let (mut met, mut rest) = one(words, allowed);
    while let Some((&"AND", after)) = rest.split_first() {
        let (other, after) = one(after, allowed);
        (met, rest) = (met && other, after);
    }
    (met, rest)
}

fn one<'w, 's>(words: &'w [&'s str], allowed: &[String]) -> (bool, &'w [&'s str]) {
    match words {
        ["(", inner @ ..] => {
            let (met, rest) = any(inner, allowed);
            (met, rest.strip_prefix(&[")"]).expect("a parenthesis that opens is closed"))
        }
        [licence, "WITH", exception, rest @ ..] => {
            (allowed.contains(&format!("{licence} WITH {exception}")), rest)
        }
        [licence, rest @ ..] => (allowed.iter().any(|name| name == licence), rest),
        [] => panic!("a licence expression ends too early"),
    }
}

#[test]
fn licences_are_permissive() {
    let allowed = listed("allow", None);
    let compiled = compiled(&["--workspace", "-e", "normal,build,dev"]);
    let found: Vec<_> = compiled.iter().filter(|(_, licence)| !is_met(licence, &allowed)).collect();
    assert!(found.is_empty(), "not allowed by deny.toml: {found:#?}");
}

#[test]
fn banned_packages_are_not_compiled() {
    let banned = listed("deny", Some("crate"));
    let compiled = compiled(&["--workspace", "-e", "normal,build,dev"]);
    let found: Vec<_> = compiled.iter().filter(|(package, _)| banned.contains(package)).collect();
    assert!(found.is_empty(), "banned by deny.toml: {found:?}");
}

#[test]
fn expressions_are_read_as_spdx_has_them() {
    let allowed = ["MIT".to_owned(), "ISC".to_owned(), "Apache-2.0 WITH LLVM-exception".to_owned()];
    let met = [
        "MIT",
        "GPL-3.0 OR MIT",
        "GPL-3.0/MIT",
        "MIT AND (ISC OR GPL-3.0)",
        "Apache-2.0 WITH LLVM-exception",
    ];
    let unmet = ["GPL-3.0", "MIT AND GPL-3.0", "ISC AND (GPL-3.0 OR AGPL-3.0) OR GPL-2.0", "Apache-2.0"];
    for expression in met {
        assert!(is_met(expression, &allowed), "{expression}");
    }
    for expression in unmet {
        assert!(!is_met(expression, &allowed), "{expression}");
    }
}
