//! Whether a vendor's service keeps the contract of `isocenter/v1/ai.proto`: it is called as Isocenter calls it, with
//! synthetic studies, good and bad, and each clause of the contract is judged by what it does.
//!
//! A checker finds what breaks the contract, not whether a model is any good. It speaks plaintext.

mod answers;
mod bench;
mod clauses;
mod dispatcher;

use std::{fmt, io, net::SocketAddr, time::Duration};

use isocenter_runtime::task::Tasks;

use crate::synthetic::SyntheticError;
use bench::Bench;

/// What is to be checked.
#[derive(Clone, Debug)]
pub struct Options {
    /// The service: `http://host:port`.
    pub address: String,
    /// Where the checker serves pixels: an address of this machine that the service reaches.
    pub listen: SocketAddr,
    /// How the service reaches that, where it is another address than the one that is bound: `http://host:port`.
    pub fetch_address: Option<String>,
    /// How long one analysis of a small study may take.
    pub patience: Duration,
    /// Of the synthetic studies: the same seed gives the same studies.
    pub seed: u64,
}

impl Options {
    /// A service of this machine, which has a minute for each analysis.
    #[must_use]
    pub fn new(address: impl Into<String>) -> Self {
        let patience = Duration::from_secs(60);
        Self { address: address.into(), listen: crate::LOOPBACK, fetch_address: None, patience, seed: 1 }
    }
}

/// Why nothing could be checked.
#[derive(Debug, thiserror::Error)]
pub enum CheckError {
    /// The address is none.
    #[error("{0} is no address of a service; write http://host:port")]
    Address(String),
    /// The checker's own port.
    #[error("cannot listen at {0} for requests for pixels")]
    Listen(SocketAddr, #[source] io::Error),
    /// A study could not be made.
    #[error("cannot make a synthetic study")]
    Study(#[from] SyntheticError),
}

/// How a clause was kept.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// It was.
    Pass,
    /// It was not, and what was seen instead. What a service said in words is never repeated: it may be anything.
    Fail(String),
    /// It could not be judged, and why.
    Skipped(String),
}

/// One clause of the contract, judged.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Clause {
    /// Its name, as in `docs/vendor.md`: `analyze.repeat`.
    pub id: &'static str,
    /// What it says.
    pub says: &'static str,
    /// How it was kept.
    pub verdict: Verdict,
}

/// What was found.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Report {
    /// The model and its version, as the service describes itself.
    pub model: String,
    /// Every clause, in the order in which they were checked.
    pub clauses: Vec<Clause>,
}

impl Report {
    /// Whether no clause was broken.
    #[must_use]
    pub fn conforms(&self) -> bool {
        !self.clauses.iter().any(|clause| matches!(clause.verdict, Verdict::Fail(_)))
    }

    fn add(&mut self, id: &'static str, says: &'static str, verdict: Verdict) {
        self.clauses.push(Clause { id, says, verdict });
    }
}

/// A line for each clause, and one that sums up.
impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (mut kept, mut broken, mut skipped) = (0, 0, 0);
        for clause in &self.clauses {
            let (mark, why) = match &clause.verdict {
                Verdict::Pass => ("pass", None),
                Verdict::Fail(why) => ("FAIL", Some(why)),
                Verdict::Skipped(why) => ("skip", Some(why)),
            };
            match clause.verdict {
                Verdict::Pass => kept += 1,
                Verdict::Fail(_) => broken += 1,
                Verdict::Skipped(_) => skipped += 1,
            }
            writeln!(f, "{mark}  {:<24} {}", clause.id, clause.says)?;
            if let Some(why) = why {
                writeln!(f, "      {why}")?;
            }
        }
        writeln!(f, "{}: {kept} kept, {broken} broken, {skipped} not judged", self.model)
    }
}

/// Checks a service. Takes some twenty calls, one after the other; the service should have nothing else to do.
///
/// # Errors
/// [`CheckError`] where nothing could be checked. A service that does not answer is a report with broken clauses.
pub async fn check(options: Options, tasks: &Tasks) -> Result<Report, CheckError> {
    let mut report = Report { model: "the service".to_owned(), ..Report::default() };
    let mut bench = Bench::start(options, tasks).await?;
    clauses::itself(&mut bench, &mut report).await;
    if bench.described.is_some() {
        clauses::answers(&bench, &mut report).await;
        clauses::requests(&bench, &mut report).await;
        clauses::pixels(&bench, &mut report).await;
        clauses::control(&bench, &mut report).await;
    }
    Ok(report)
}
