//! The live board on stderr: studies by stage, the oldest age, load per reader. Plain lines where stderr is no terminal.

use std::{
    collections::BTreeMap,
    io::{IsTerminal as _, Write as _},
    time::{Duration, Instant},
};

use isocenter_peers::reader::Reader;
use isocenter_wire::v1::{Study, StudyStage};

use crate::command::study::stage_name;

/// Between two plain lines.
const PLAIN: Duration = Duration::from_secs(2);

/// What was last drawn, and where.
pub struct Board {
    terminal: bool,
    lines: usize,
    last: Option<(Instant, String)>,
}

impl Board {
    /// Draws on stderr.
    pub fn new() -> Self {
        Self { terminal: std::io::stderr().is_terminal(), lines: 0, last: None }
    }

    /// Draws `studies` as they are now. `now` is seconds since the epoch.
    pub fn draw(
        &mut self,
        instant: Instant,
        now: i64,
        studies: &BTreeMap<String, Study>,
        readers: &[(&'static str, Reader)],
    ) {
        let mut stages: BTreeMap<i32, (u64, i64)> = BTreeMap::new();
        for study in studies.values() {
            let since = study.updated_at.as_ref().map_or(now, |at| at.seconds);
            let (count, oldest) = stages.entry(study.stage).or_insert((0, 0));
            *count += 1;
            *oldest = (*oldest).max(now - since);
        }
        let load: Vec<String> =
            readers.iter().map(|(id, reader)| format!("{id} {}", reader.counts().signed)).collect();
        if self.terminal {
            self.redraw(&stages, &load);
        } else {
            self.line(instant, &stages, &load);
        }
    }

    fn redraw(&mut self, stages: &BTreeMap<i32, (u64, i64)>, load: &[String]) {
        let mut text = String::new();
        if self.lines > 0 {
            // Up to where the last board began; each line is cleared as it is written again.
            text.push_str(&format!("\x1b[{}A", self.lines));
        }
        let mut lines = vec![format!("{:<22}{:>8}{:>12}", "stage", "studies", "oldest")];
        for stage in 1..=10 {
            let Ok(stage) = StudyStage::try_from(stage) else { continue };
            let (count, oldest) = stages.get(&stage.into()).copied().unwrap_or_default();
            let bar = "█".repeat(usize::try_from(count).unwrap_or(0).min(40));
            lines.push(format!("{:<22}{count:>8}{:>11}s {bar}", stage_name(stage), oldest));
        }
        lines.push(format!("signed: {}", load.join(", ")));
        for line in &lines {
            text.push_str(&format!("\x1b[2K{line}\n"));
        }
        self.lines = lines.len();
        write(&text);
    }

    fn line(&mut self, instant: Instant, stages: &BTreeMap<i32, (u64, i64)>, load: &[String]) {
        let counts: Vec<String> = stages
            .iter()
            .filter_map(|(stage, (count, _))| Some((StudyStage::try_from(*stage).ok()?, count)))
            .map(|(stage, count)| format!("{} {count}", stage_name(stage)))
            .collect();
        let text = format!("{} | signed: {}", counts.join(", "), load.join(", "));
        let due = self.last.as_ref().is_none_or(|(at, last)| *last != text && instant - *at >= PLAIN);
        if due && !counts.is_empty() {
            write(&format!("{text}\n"));
            self.last = Some((instant, text));
        }
    }
}

fn write(text: &str) {
    let mut err = std::io::stderr().lock();
    // Nobody to tell if stderr is closed.
    drop(err.write_all(text.as_bytes()).and_then(|()| err.flush()));
}
