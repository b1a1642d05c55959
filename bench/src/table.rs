//! The one table that everything is printed in, and the machine it was measured on.

use std::io::Write as _;

use anyhow::Result;
use comfy_table::{ContentArrangement, Table, presets};

/// What was measured so far.
#[derive(Debug, Default)]
pub struct Figures(Vec<[String; 3]>);

impl Figures {
    /// Nothing yet.
    pub fn new() -> Self {
        Self::default()
    }

    /// One figure: what, how much, and what is aimed at or what it consists of.
    pub fn add(&mut self, what: impl Into<String>, figure: impl Into<String>, note: impl Into<String>) {
        let row = [what.into(), figure.into(), note.into()];
        note_progress(&format!("{}: {}", row[0], row[1]));
        self.0.push(row);
    }

    /// Prints the machine, the command and the table to stdout.
    pub fn print(&self) -> Result<()> {
        let mut out = std::io::stdout().lock();
        let command: Vec<_> = std::env::args().skip(1).collect();
        writeln!(out, "isocenter-bench {}", command.join(" "))?;
        writeln!(out, "{}", machine())?;
        let mut table = Table::new();
        table
            .load_style(presets::NOTHING)
            .set_content_arrangement(ContentArrangement::Dynamic)
            .set_header(["figure", "measured", "note"]);
        for row in &self.0 {
            table.add_row(row.iter());
        }
        writeln!(out, "{table}")?;
        Ok(())
    }
}

/// A line for whoever waits.
pub fn note_progress(text: &str) {
    // Nobody to tell if stderr is closed.
    drop(writeln!(std::io::stderr().lock(), "{text}"));
}

/// Processor, memory, kernel, and how busy it is: neighbours count.
pub fn machine() -> String {
    let read = |path: &str| std::fs::read_to_string(path).unwrap_or_default();
    let (cpu, memory, kernel, load) = (
        read("/proc/cpuinfo"),
        read("/proc/meminfo"),
        read("/proc/sys/kernel/osrelease"),
        read("/proc/loadavg"),
    );
    let after = |text: &str, name: &str| {
        let line = text.lines().find_map(|line| line.strip_prefix(name)).unwrap_or("unknown");
        line.trim_start_matches([' ', '\t', ':']).to_owned()
    };
    let cores = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
    format!(
        "{cores} × {}, {}, Linux {}, load {}, {} build",
        after(&cpu, "model name"),
        after(&memory, "MemTotal"),
        kernel.trim(),
        load.split(' ').next().unwrap_or("unknown"),
        if cfg!(debug_assertions) { "debug" } else { "release" },
    )
}

/// The value at a share of sorted values: 0.5 is the median.
pub fn quantile(sorted: &[f64], share: f64) -> f64 {
    if sorted.is_empty() {
        return f64::NAN;
    }
    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        clippy::cast_precision_loss,
        reason = "an index of a list that fits in memory"
    )]
    let at = ((sorted.len() as f64 * share).ceil() as usize).clamp(1, sorted.len()) - 1;
    sorted[at]
}
