//! Calls as every client has to make them, and seeds.

use std::{future::Future, sync::Mutex};

use isocenter_runtime::random::Seeded;
use isocenter_testkit::wait_for;
use tonic::{Code, Response, Status};
use tonic_types::StatusExt as _;

use crate::world::PATIENCE;

/// The reason that an answer gives, e.g. `NEW_IMAGES`.
pub fn reason(status: &Status) -> String {
    status.get_details_error_info().map(|info| info.reason).unwrap_or_default()
}

/// Whether the same request may be answered otherwise later, or was answered and the answer lost.
pub fn is_passing(status: &Status) -> bool {
    match status.code() {
        Code::Unavailable | Code::Unknown | Code::DeadlineExceeded | Code::ResourceExhausted => true,
        Code::Aborted => reason(status) == "CONFLICT",
        _ => false,
    }
}

/// Makes the call, with the same request each time, until it has an answer that repetition would not change.
pub async fn persist<T, F>(name: &str, call: impl Fn() -> F) -> Result<T, Status>
where
    F: Future<Output = Result<Response<T>, Status>>,
{
    let answer = Mutex::new(None);
    let last = Mutex::new(String::new());
    wait_for(name, PATIENCE, || async {
        match call().await {
            Err(status) if is_passing(&status) => {
                *last.lock().unwrap() = status.to_string();
                false
            }
            settled => {
                *answer.lock().unwrap() = Some(settled.map(Response::into_inner));
                true
            }
        }
    })
    .await;
    answer.into_inner().unwrap().expect("was waited for")
}

/// The seeds of a test: those it names, or the one in `ISOCENTER_SIM_SEED`.
pub fn seeds(named: &[u64]) -> impl Iterator<Item = Announced> {
    let given = std::env::var("ISOCENTER_SIM_SEED").ok();
    let given = given.map(|text| vec![text.parse().expect("ISOCENTER_SIM_SEED is a number")]);
    given.unwrap_or_else(|| named.to_vec()).into_iter().map(Announced)
}

/// A seed that is printed if the test fails while it is held.
pub struct Announced(pub u64);

impl Announced {
    /// The generator of this seed.
    pub fn rng(&self) -> Seeded {
        Seeded::new(self.0)
    }
}

impl Drop for Announced {
    #[expect(clippy::print_stderr, reason = "whoever runs the tests has to see the seed")]
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("failed with ISOCENTER_SIM_SEED={}", self.0);
        }
    }
}
