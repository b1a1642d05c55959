//! Which crate may name which: ARCHITECTURE.md, "Shape". A new edge is a change of the architecture; it starts here.

use std::collections::BTreeMap;

use isocenter_tests_arch::{Crate, Dependency, compiled, crates};

const SERVICE: &[&str] =
    &["domain", "policy", "assign", "wire", "store", "reconcile", "dimse", "hl7", "blobs", "runtime"];

/// The crates of this workspace that each crate may name outside its tests.
const ALLOWED: &[(&str, &[&str])] = &[
    ("domain", &[]),
    ("policy", &["domain"]),
    ("assign", &["domain"]),
    // The simulator runs the engine itself, and nothing else of ours.
    ("simulate", &["domain", "assign"]),
    ("wire", &["domain"]),
    ("runtime", &["domain"]),
    // Reconcile's trait of shards is implemented by the store's membership.
    ("store", &["domain", "wire", "runtime", "reconcile"]),
    // Generic over its source of keys, so that it never learns what a store is.
    ("reconcile", &["domain", "runtime"]),
    ("blobs", &["domain", "runtime"]),
    ("dimse", &["domain", "runtime"]),
    ("hl7", &["domain", "runtime"]),
    ("peers", &["domain", "wire", "dimse", "runtime", "hl7"]),
    // What a stranger would write: the contract and nothing else of ours.
    ("example-network", &["wire"]),
    ("testkit", &["store", "peers", "runtime"]),
    ("ingestion", SERVICE),
    ("routing", SERVICE),
    ("ai-dispatch", SERVICE),
    ("reader-assignment", SERVICE),
    ("report-delivery", SERVICE),
    ("archive", SERVICE),
    (
        "isocenter",
        &[
            "ingestion",
            "routing",
            "ai-dispatch",
            "reader-assignment",
            "report-delivery",
            "archive",
            "simulate",
            "peers",
            "store",
            "blobs",
            "policy",
            "wire",
            "runtime",
            "domain",
            "reconcile",
            "dimse",
        ],
    ),
];

/// Packages that only the crates beside them may name, in tests as well, with the reason.
const CONFINED: &[(&str, &[&str], &str)] = &[
    ("prost", &["wire"], "the others see domain types and the Timestamp and Duration that wire re-exports"),
    ("prost-types", &["wire"], "as prost"),
    ("tonic-prost", &["wire"], "as prost"),
    ("etcd-client", &["store"], "every other crate is written against the Store trait"),
    ("dicom-ul", &["dimse"], "the network edge turns associations into domain events"),
    ("object_store", &["blobs"], "durability is decided in one place"),
    ("hl7-parser", &["hl7"], "the codec and its limits are in one place"),
    ("cel", &["policy"], "expressions are checked at load, in one place"),
    ("sqlx", &["archive"], "SQL holds rebuildable projections of the journal alone"),
    ("anyhow", &["isocenter"], "libraries have named errors"),
    ("clap", &["isocenter", "example-network"], "one command line; an example has its own"),
];

/// Packages that a crate must not name in its product.
const FORBIDDEN: &[(&str, &[&str])] = &[
    ("domain", &["tokio", "tonic", "rand", "getrandom", "jiff", "chrono", "time"]),
    // A calendar is pure; reading the clock through it is what clippy.toml forbids.
    ("policy", &["tokio", "rand", "getrandom"]),
    ("assign", &["tokio", "rand", "getrandom", "jiff", "chrono", "time"]),
    ("simulate", &["tokio", "rand", "getrandom", "jiff", "chrono", "time"]),
    ("wire", &["tokio"]),
    ("dimse", &["tonic"]),
    ("store", &["dicom-core", "dicom-object", "dicom-parser", "dicom-encoding", "dicom-pixeldata"]),
];

/// The crates that decide and never act.
const PURE: &[&str] = &["domain", "policy", "assign"];

/// What is never shipped: the tests, and the benchmarks, which drive real processes as the tests do.
fn is_test_crate(package: &Crate) -> bool {
    package.folder.starts_with("tests/") || package.folder == "bench"
}

fn offences(rule: impl Fn(&Crate, &Dependency) -> Option<String>) -> Vec<String> {
    let mut found = Vec::new();
    for package in crates() {
        for dependency in &package.dependencies {
            found.extend(rule(&package, dependency).map(|why| format!("{}: {why}", package.folder)));
        }
    }
    found
}

#[test]
fn crates_name_only_the_crates_they_may() {
    let allowed: BTreeMap<&str, &[&str]> = ALLOWED.iter().copied().collect();
    let found = offences(|package, dependency| {
        if !dependency.own || is_test_crate(package) {
            return None;
        }
        let Some(allowed) = allowed.get(package.name.as_str()) else {
            return Some("is in no table: say in ALLOWED what it may name".to_owned());
        };
        // A crate's tests may use the testkit and the peers, and the crate itself with the features that its users get.
        let name = dependency.name.as_str();
        let fine = allowed.contains(&name)
            || (dependency.dev && (["testkit", "peers"].contains(&name) || name == package.name));
        (!fine).then(|| format!("must not name {name}"))
    });
    assert!(found.is_empty(), "{found:#?}");
}

#[test]
fn testkit_reaches_tests_only() {
    let found = offences(|package, dependency| {
        (dependency.name == "testkit" && !dependency.dev && !is_test_crate(package))
            .then(|| "names testkit outside its tests".to_owned())
    });
    assert!(found.is_empty(), "{found:#?}");
}

#[test]
fn confined_packages_stay_where_they_are() {
    let found = offences(|package, dependency| {
        let (_, homes, why) = CONFINED.iter().find(|(name, ..)| *name == dependency.name)?;
        let fine = is_test_crate(package) || homes.contains(&package.name.as_str());
        (!fine).then(|| format!("names {}, which belongs to {homes:?}: {why}", dependency.name))
    });
    assert!(found.is_empty(), "{found:#?}");
}

#[test]
fn forbidden_packages_are_not_named() {
    let forbidden: BTreeMap<&str, &[&str]> = FORBIDDEN.iter().copied().collect();
    let found = offences(|package, dependency| {
        let forbidden = forbidden.get(package.name.as_str())?;
        let found = !dependency.dev && forbidden.contains(&dependency.name.as_str());
        found.then(|| format!("must not name {}", dependency.name))
    });
    assert!(found.is_empty(), "{found:#?}");
}

#[test]
fn pure_crates_generate_no_ids() {
    let found = offences(|package, dependency| {
        let random = dependency.features.iter().any(|feature| feature == "v4" || feature == "v7");
        let found = PURE.contains(&package.name.as_str()) && dependency.name == "uuid" && random;
        found.then(|| "asks uuid for a feature that draws ids".to_owned())
    });
    assert!(found.is_empty(), "{found:#?}");
}

#[test]
fn pure_crates_are_compiled_without_runtime_or_network() {
    for name in PURE {
        let compiled = compiled(&["-p", &format!("isocenter-{name}"), "-e", "normal"]);
        let network = ["tokio", "mio", "hyper", "tonic", "prost", "etcd-client"];
        let found: Vec<_> =
            compiled.iter().filter(|(package, _)| network.contains(&package.as_str())).collect();
        assert!(found.is_empty(), "{name} is compiled with {found:?}");
    }
}

#[test]
fn every_crate_takes_the_workspace_lints() {
    for package in crates() {
        let manifest = isocenter_tests_arch::text(&format!("{}/Cargo.toml", package.folder));
        assert!(manifest.contains("[lints]\nworkspace = true"), "{} has lints of its own", package.folder);
    }
}
