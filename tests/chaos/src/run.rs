//! One run: a cluster, a load, a play, and the judgement.

use std::{
    collections::BTreeMap,
    io::Write as _,
    path::{Path, PathBuf},
    time::Duration,
};

use anyhow::{Context as _, Result};
use isocenter_domain::record::RecordKind;
use isocenter_runtime::random::Seeded;

use crate::{
    check::{self, Violation},
    cluster::{Cluster, Plan},
    collect::collect,
    evidence::Evidence,
    peers::{Load, Peers},
    record::{Deed, Outcome},
    scenario::Scenario,
    stage::{Mark, Stage},
    witness::Witness,
};

/// Load before the first fault, so that there is something to break.
const WARM_UP: Duration = Duration::from_secs(3);
/// How long the modalities may take to bring in what they began.
const SENDING: Duration = Duration::from_secs(120);

/// How to run.
#[derive(Clone, Debug)]
pub struct Settings {
    /// The binary.
    pub binary: PathBuf,
    /// Everything that is drawn follows from it.
    pub seed: u64,
    /// How long the play lasts; each has at least one fault.
    pub length: Duration,
    /// Studies per second.
    pub rate: f64,
    /// A folder with studies of real devices, if any.
    pub real: Option<PathBuf>,
}

/// What came of a run.
#[derive(Clone, Debug)]
pub struct Outcomes {
    /// The play.
    pub scenario: String,
    /// The seed.
    pub seed: u64,
    /// Studies of which something was acknowledged.
    pub studies: usize,
    /// Instances acknowledged.
    pub instances: usize,
    /// Report versions accepted.
    pub reports: usize,
    /// Changes of the store.
    pub revisions: u64,
    /// Operations of which the peers do not know whether they were done.
    pub unknown: usize,
    /// After each fault, the longest time without a completed study, a signature, or an accepted report.
    pub silences: Vec<(String, Duration)>,
    /// What must never be.
    pub violations: Vec<Violation>,
    /// Where everything lies, where something is wrong.
    pub folder: Option<PathBuf>,
}

impl Outcomes {
    /// The longest silence.
    #[must_use]
    pub fn silence(&self) -> Duration {
        self.silences.iter().map(|(_, time)| *time).max().unwrap_or_default()
    }

    /// One line for whoever looks.
    #[must_use]
    pub fn line(&self) -> String {
        format!(
            "chaos: {} seed {}: {} studies, {} instances, {} reports, {} revisions, {} answers unknown, longest \
             silence {:.1} s, {} violations",
            self.scenario,
            self.seed,
            self.studies,
            self.instances,
            self.reports,
            self.revisions,
            self.unknown,
            self.silence().as_secs_f64(),
            self.violations.len()
        )
    }
}

/// Says something to whoever looks; nothing depends on it.
pub fn tell(line: &str) {
    drop(writeln!(std::io::stderr(), "{line}"));
}

/// Runs one play.
///
/// # Errors
/// If the harness itself fails, or what must go on during the fault does not.
pub async fn run(scenario: Scenario, settings: &Settings) -> Result<Outcomes> {
    tell(&format!("chaos: {} begins, seed {}", scenario.name(), settings.seed));
    let plan = Plan {
        hosts: scenario.wants_hosts(),
        quota: scenario.quota(),
        clocks: scenario.wants_clocks(),
        flags: scenario.flags(),
        ..Plan::new(&settings.binary)
    };
    let mut cluster = Cluster::start(&plan).await.context("the cluster does not start")?;
    let real = match &settings.real {
        Some(folder) => isocenter_peers::directory::scan(folder)?.studies,
        None => Vec::new(),
    };
    let load = Load { seed: settings.seed, rate: settings.rate, senders: 8, readers: 6, returns: 0.1, real };
    let mut peers = Peers::start(&cluster, &load).await.context("the peers do not start")?;
    let witness = Witness::start(cluster.store().await?, peers.recorder.clone(), &cluster.tasks);
    tokio::time::sleep(WARM_UP).await;
    let rng = Seeded::new(settings.seed).fork("faults");
    let mut stage = Stage {
        cluster: &mut cluster,
        peers: &peers,
        witness: &witness,
        rng,
        length: settings.length,
        marks: Vec::new(),
    };
    let played = scenario.play(&mut stage).await;
    let marks = std::mem::take(&mut stage.marks);
    let judged = async {
        played?;
        cluster.heal().await?;
        cluster.ready().await?;
        peers.finish_sending(SENDING).await?;
        let over = peers.recorder.now();
        let evidence = collect(&cluster, &peers, &witness, &settings.binary).await?;
        anyhow::Ok((over, evidence))
    };
    let (over, evidence) = match judged.await {
        Ok(judged) => judged,
        Err(error) => {
            let folder = cluster.keep();
            cluster.end().await;
            return Err(error.context(format!(
                "{} seed {}, see {}",
                scenario.name(),
                settings.seed,
                folder.display()
            )));
        }
    };
    let violations = check::all(&evidence);
    let folder = (!violations.is_empty()).then(|| cluster.keep());
    if let Some(folder) = &folder {
        dump(folder, &evidence, &violations)?;
    }
    cluster.end().await;
    Ok(summary(scenario, settings.seed, &evidence, &marks, over, violations, folder))
}

fn summary(
    scenario: Scenario,
    seed: u64,
    evidence: &Evidence,
    marks: &[Mark],
    over: Duration,
    violations: Vec<Violation>,
    folder: Option<PathBuf>,
) -> Outcomes {
    let stored = evidence
        .ops
        .iter()
        .filter(|op| matches!((&op.deed, &op.outcome), (Deed::Store { .. }, Outcome::Ok(_))));
    let unknown = evidence.ops.iter().filter(|op| matches!(op.outcome, Outcome::Unknown(_)));
    Outcomes {
        scenario: scenario.name(),
        seed,
        studies: evidence.stages.len(),
        instances: stored.count(),
        reports: evidence.received.len(),
        revisions: evidence.history.revision(),
        unknown: unknown.count(),
        silences: silences(evidence, marks, over),
        violations,
        folder,
    }
}

/// After each fault and before the next, the longest time in which nothing of one kind went on.
fn silences(evidence: &Evidence, marks: &[Mark], over: Duration) -> Vec<(String, Duration)> {
    let mut progress: BTreeMap<&str, Vec<Duration>> = BTreeMap::new();
    for change in &evidence.history.changes {
        let Some(value) = &change.value else { continue };
        let kind = change.key.split('/').next().and_then(RecordKind::parse);
        let state = check::state(&change.key, value);
        match (kind, state) {
            (Some(RecordKind::Study), Some("complete")) => {
                progress.entry("study").or_default().push(change.seen)
            }
            (Some(RecordKind::Report), _) => progress.entry("report").or_default().push(change.seen),
            (Some(RecordKind::Delivery), Some("application-accepted")) => {
                progress.entry("delivery").or_default().push(change.seen);
            }
            _ => {}
        }
    }
    let mut silences = Vec::new();
    for (n, mark) in marks.iter().enumerate() {
        let end = marks.get(n + 1).map_or(over, |next| next.at).max(mark.at);
        let mut longest = (Duration::ZERO, "");
        for (kind, times) in &progress {
            let mut last = mark.at;
            for time in times.iter().filter(|time| **time >= mark.at) {
                longest = longest.max((time.saturating_sub(last), kind));
                last = *time;
                if last > end {
                    break;
                }
            }
        }
        silences.push((format!("{} no {}", mark.what, longest.1), longest.0));
    }
    silences
}

/// Everything that a person would want to look at.
fn dump(folder: &Path, evidence: &Evidence, violations: &[Violation]) -> Result<()> {
    let lines = |all: Vec<String>| all.join("\n");
    let found = violations.iter().map(ToString::to_string).collect();
    std::fs::write(folder.join("violations.txt"), lines(found))?;
    let ops = evidence.ops.iter().map(|op| format!("{op:?}")).collect();
    std::fs::write(folder.join("ops.txt"), lines(ops))?;
    let history = evidence.history.changes.iter().map(|change| {
        let state = change.value.as_ref().map(|value| check::state(&change.key, value).unwrap_or("put"));
        format!("{} {:?} {} {}", change.revision, change.seen, change.key, state.unwrap_or("deleted"))
    });
    std::fs::write(folder.join("history.txt"), lines(history.collect()))?;
    let records = evidence.lines.iter().map(|line| format!("{line:?}")).collect();
    std::fs::write(folder.join("records.txt"), lines(records))?;
    Ok(())
}
