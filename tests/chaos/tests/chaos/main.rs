//! The plays that fit into every test run: one seed each, few studies. `make chaos` plays all of them, long and under many seeds.

use std::{
    env,
    path::{Path, PathBuf},
    process::{Command, Stdio},
    time::Duration,
};

use isocenter_runtime::random::Seeded;
use isocenter_tests_chaos::{
    run::{Settings, run, tell},
    scenario::Scenario,
};

/// What the busiest machine may take to go on after a fault; what is measured is printed.
const RECOVERY: Duration = Duration::from_secs(90);

/// The binary. `ISOCENTER_BINARY` names one to be judged; otherwise the one beside this test is brought up to date, under cargo's
/// own lock, since a test crate cannot depend on another crate's binary.
fn binary() -> PathBuf {
    env::var_os("ISOCENTER_BINARY").map_or_else(build, PathBuf::from)
}

fn build() -> PathBuf {
    let this = env::current_exe().expect("a test knows its own path");
    // TARGET/PROFILE/deps/chaos-HASH
    let profile = this.ancestors().nth(2).expect("tests lie in a target folder");
    let target = profile.parent().expect("a profile's folder lies in a target folder");
    let mut cargo = Command::new(env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    cargo.args(["build", "--quiet", "--locked", "--package", "isocenter", "--target-dir"]).arg(target);
    if profile.ends_with("release") {
        cargo.arg("--release");
    }
    let built = cargo.current_dir(Path::new(env!("CARGO_MANIFEST_DIR"))).stdin(Stdio::null()).output();
    let built = built.expect("cargo runs");
    assert!(built.status.success(), "isocenter does not build: {}", String::from_utf8_lossy(&built.stderr));
    profile.join("isocenter")
}

async fn play(scenario: Scenario, length: Duration) {
    let named = env::var("ISOCENTER_CHAOS_SEED").ok().and_then(|seed| seed.parse().ok());
    let seed = named.unwrap_or_else(|| Seeded::fresh().seed() >> 32);
    let settings = Settings { binary: binary(), seed, length, rate: 3.0, real: None };
    let outcomes = run(scenario, &settings).await.unwrap_or_else(|error| panic!("{error:#}"));
    tell(&outcomes.line());
    for (what, silence) in &outcomes.silences {
        tell(&format!("  after {what}: {:.1} s", silence.as_secs_f64()));
    }
    let violations: Vec<_> = outcomes.violations.iter().map(ToString::to_string).collect();
    assert!(
        violations.is_empty(),
        "seed {seed}, see {}: {violations:#?}",
        outcomes.folder.unwrap_or_default().display()
    );
    assert!(outcomes.studies > 0 && outcomes.reports > 0, "seed {seed}: nothing went through");
    let silence = outcomes.silences.iter().map(|(_, silence)| *silence).max().unwrap_or_default();
    assert!(silence < RECOVERY, "seed {seed}: {:?}", outcomes.silences);
}

#[tokio::test(flavor = "multi_thread")]
async fn every_role_every_member_and_the_leader_are_killed() {
    play(Scenario::Kills, Duration::ZERO).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn freezes_partitions_and_lost_answers() {
    play(Scenario::Medley, Duration::from_secs(5)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_stores_space_is_used_up_and_freed() {
    play(Scenario::NoSpace, Duration::from_secs(5)).await;
}
