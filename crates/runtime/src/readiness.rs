//! Readiness as dropped latches: each part of the process takes one and drops it when it can serve.

use std::{collections::BTreeMap, sync::Arc};

use tokio::sync::watch;
use tonic_health::{
    ServingStatus,
    pb::health_server::{Health, HealthServer},
    server::health_reporter,
};

use crate::task::Tasks;

/// Whether the process can serve. Clones are the same state.
#[derive(Clone, Debug)]
pub struct Readiness(Arc<watch::Sender<State>>);

#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct State {
    next: u64,
    waiting: BTreeMap<u64, &'static str>,
    draining: bool,
}

/// Held by a part that cannot serve yet. Dropping it says that it can; dropping it in a panic says nothing.
#[derive(Debug)]
pub struct Latch {
    readiness: Readiness,
    id: u64,
}

impl Readiness {
    /// An unready state and the latch that keeps it so until the caller has handed out all others.
    #[must_use]
    pub fn new() -> (Self, Latch) {
        let readiness = Self(Arc::new(watch::Sender::new(State::default())));
        let starting = readiness.latch("start");
        (readiness, starting)
    }

    /// Makes the process unready until the latch is dropped. May be taken at any time, such as while a dependency does
    /// not answer.
    #[must_use]
    pub fn latch(&self, part: &'static str) -> Latch {
        let mut id = 0;
        self.0.send_modify(|state| {
            id = state.next;
            state.next += 1;
            state.waiting.insert(id, part);
        });
        Latch { readiness: self.clone(), id }
    }

    /// Makes the process unready for good: it is shutting down.
    pub fn drain(&self) {
        self.0.send_modify(|state| state.draining = true);
    }

    /// Whether every latch is dropped and the process is not shutting down.
    #[must_use]
    pub fn is_ready(&self) -> bool {
        self.0.borrow().is_ready()
    }

    /// The parts that still hold a latch, and `drain` for a process that is shutting down.
    #[must_use]
    pub fn waiting(&self) -> Vec<&'static str> {
        let state = self.0.borrow();
        state.waiting.values().copied().chain(state.draining.then_some("drain")).collect()
    }

    /// Returns once the process is ready.
    pub async fn ready(&self) {
        // The sender is held by `self`, so that the wait cannot fail.
        if self.0.subscribe().wait_for(State::is_ready).await.is_err() {
            std::future::pending::<()>().await;
        }
    }

    /// `grpc.health.v1`, following this state by a task of `tasks`: the services `""` and `readiness` serve while the
    /// process is ready, `startup` once it has been, `liveness` always: it depends on nothing outside the process.
    pub fn health(&self, tasks: &Tasks) -> HealthServer<impl Health> {
        let (reporter, server) = health_reporter();
        let mut states = self.0.subscribe();
        let ended = tasks.token();
        let readiness = self.clone();
        tasks.background("health", async move {
            reporter.set_service_status("liveness", ServingStatus::Serving).await;
            reporter.set_service_status("startup", ServingStatus::NotServing).await;
            loop {
                let ready = states.borrow_and_update().is_ready();
                let status = if ready { ServingStatus::Serving } else { ServingStatus::NotServing };
                reporter.set_service_status("", status).await;
                reporter.set_service_status("readiness", status).await;
                if ready {
                    reporter.set_service_status("startup", ServingStatus::Serving).await;
                }
                if ended.is_cancelled() {
                    return;
                }
                tokio::select! {
                    changed = states.changed() => if changed.is_err() { return },
                    () = ended.cancelled() => readiness.drain(),
                }
            }
        });
        server
    }
}

impl State {
    fn is_ready(&self) -> bool {
        self.waiting.is_empty() && !self.draining
    }
}

impl Drop for Latch {
    fn drop(&mut self) {
        // A part that panics has not become able to serve.
        if !std::thread::panicking() {
            self.readiness.0.send_modify(|state| {
                state.waiting.remove(&self.id);
            });
        }
    }
}

#[cfg(test)]
mod tests {
    use tonic::Request;
    use tonic_health::pb::{HealthCheckRequest, health_client::HealthClient};

    use super::*;

    #[test]
    fn ready_when_every_latch_is_dropped_and_never_again_once_draining() {
        let (readiness, starting) = Readiness::new();
        let store = readiness.latch("store");
        drop(starting);
        assert_eq!((readiness.is_ready(), readiness.waiting()), (false, vec!["store"]));
        drop(store);
        assert!(readiness.is_ready());
        let lost = readiness.latch("store");
        assert!(!readiness.is_ready());
        drop(lost);
        readiness.drain();
        assert_eq!((readiness.is_ready(), readiness.waiting()), (false, vec!["drain"]));
    }

    #[test]
    fn a_part_that_panics_has_not_become_ready() {
        let (readiness, starting) = Readiness::new();
        let held = std::panic::AssertUnwindSafe(starting);
        let fell = std::panic::catch_unwind(move || {
            let _held = held;
            panic!("on purpose");
        });
        assert!(fell.is_err() && !readiness.is_ready());
    }

    #[tokio::test]
    async fn health_follows() {
        let (readiness, starting) = Readiness::new();
        let tasks = Tasks::new();
        let server = readiness.health(&tasks);
        let check = async |service: &str| {
            let request = Request::new(HealthCheckRequest { service: service.into() });
            HealthClient::new(server.clone())
                .check(request)
                .await
                .map(|r| r.into_inner().status)
                .unwrap_or_default()
        };
        let until = async |service: &'static str, wanted: ServingStatus| {
            while check(service).await
                != i32::from(tonic_health::pb::health_check_response::ServingStatus::from(wanted))
            {
                tokio::task::yield_now().await;
            }
        };
        until("liveness", ServingStatus::Serving).await;
        until("readiness", ServingStatus::NotServing).await;
        drop(starting);
        readiness.ready().await;
        until("readiness", ServingStatus::Serving).await;
        until("startup", ServingStatus::Serving).await;
        tasks.shut_down();
        until("", ServingStatus::NotServing).await;
        assert_eq!(tasks.drain(std::time::Duration::from_secs(5)).await, crate::task::Drained::Clean);
    }
}
