//! Which calls of one service are under way from this process, and which wait for their turn or for the service to be
//! well. A service that does not answer holds up its own tasks, never those of another.

use std::{
    collections::{BTreeMap, BTreeSet, VecDeque},
    sync::Arc,
    time::Duration,
};

use isocenter_domain::{
    Time,
    id::{AiServiceId, TenantId},
    key::AiTaskKey,
};
use isocenter_reconcile::Queue;
use parking_lot::Mutex;

use crate::plan::breaker::{Breaker, Standing, Tolerance, Verdict};

/// A service of a tenant.
pub(crate) type To = (TenantId, AiServiceId);

/// How many of the last answers the latencies are of: 2 KiB for each service.
const SAMPLES: usize = 256;

/// Lets tasks pass. Clones are the same gate.
#[derive(Clone, Debug)]
pub(crate) struct Gate {
    queue: Queue<AiTaskKey>,
    tolerance: Tolerance,
    /// One for each service that a task was for: as many as the registry had since the start.
    doors: Arc<Mutex<BTreeMap<To, Door>>>,
}

/// Tasks at one service. Those that wait are each one that the queue knows, so that they are bounded with it.
#[derive(Debug, Default)]
struct Door {
    inside: usize,
    line: VecDeque<AiTaskKey>,
    waiting: BTreeSet<AiTaskKey>,
    breaker: Breaker,
    book: Book,
}

/// What has come of the calls of one service since the start.
#[derive(Clone, Debug, Default)]
pub(crate) struct Book {
    /// Calls by how they ended.
    pub outcomes: BTreeMap<&'static str, u64>,
    /// The last answer that kept the contract.
    pub last_success: Option<Time>,
    /// The last call that failed.
    pub last_failure: Option<Time>,
    /// How long the last answers took, at most [`SAMPLES`].
    pub latencies: VecDeque<Duration>,
}

/// How a service stands.
#[derive(Clone, Debug)]
pub(crate) struct View {
    pub standing: Standing,
    pub failures: u32,
    pub inside: usize,
    pub waiting: usize,
    pub book: Book,
}

/// Whether a task may call now.
#[derive(Debug)]
pub(crate) enum Turn {
    /// Now.
    Now(Pass),
    /// It is woken when it may; at that time it looks by itself, if it is the one that has to.
    Later(Option<Time>),
}

/// The right to call; ends with the value.
#[derive(Debug)]
pub(crate) struct Pass {
    gate: Gate,
    to: To,
    probe: bool,
    verdict: Verdict,
    ended_at: Time,
}

/// How a call ended, for the book.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Ended {
    /// Its name in metrics.
    pub outcome: &'static str,
    /// What it says of the service.
    pub verdict: Verdict,
    /// How long it took.
    pub took: Duration,
    /// When.
    pub at: Time,
}

impl Gate {
    /// A gate that wakes waiting tasks in `queue`.
    pub fn new(queue: Queue<AiTaskKey>, tolerance: Tolerance) -> Self {
        Self { queue, tolerance, doors: Arc::default() }
    }

    /// Lets `task` pass if fewer than `limit` are inside and the service is to be called: `closed` is until when it says
    /// itself that it does not serve. Else it waits, in the order in which tasks came.
    pub fn enter(&self, task: &AiTaskKey, limit: usize, closed: Option<Time>, now: Time) -> Turn {
        let to = to(task);
        let mut doors = self.doors.lock();
        let door = doors.entry(to.clone()).or_default();
        let closed = closed.or(match door.breaker.standing() {
            Standing::Open { until } if now < until => Some(until),
            Standing::Open { .. } | Standing::Ready | Standing::Probing => None,
        });
        if closed.is_some() || door.inside >= limit || !door.breaker.admits(now) {
            // One looks again when the service may be well; the others follow it in.
            let first = door.wait(task);
            return Turn::Later(closed.filter(|_| first));
        }
        door.forget(task);
        door.inside += 1;
        let probe = door.breaker.begin();
        let next = door.next(limit);
        drop(doors);
        self.wake(next);
        let gate = self.clone();
        Turn::Now(Pass { gate, to, probe, verdict: Verdict::Nothing, ended_at: now })
    }

    /// `task` does not wait any more: if it was the first in line, the next one is.
    pub fn forgo(&self, task: &AiTaskKey) {
        let next = {
            let mut doors = self.doors.lock();
            let Some(door) = doors.get_mut(&to(task)) else { return };
            let first = door.line.front() == Some(task);
            door.forget(task);
            if first { door.line.front().cloned() } else { None }
        };
        self.wake(next);
    }

    /// Something was heard of the service beside its calls: the first in line looks.
    pub fn look(&self, to: &To) {
        let first = self.doors.lock().get(to).and_then(|door| door.line.front().cloned());
        self.wake(first);
    }

    /// Tasks that are no longer this process's do not wait here, and hold up nobody who waits behind them.
    pub fn review(&self, ours: impl Fn(&AiTaskKey) -> bool) {
        let firsts: Vec<AiTaskKey> = {
            let mut doors = self.doors.lock();
            let firsts = doors.values_mut().filter_map(|door| {
                door.line.retain(&ours);
                door.waiting.retain(&ours);
                door.line.front().cloned()
            });
            firsts.collect()
        };
        firsts.into_iter().for_each(|first| self.wake(Some(first)));
    }

    /// How a service stands; `None` before its first task.
    pub fn view(&self, to: &To) -> Option<View> {
        let doors = self.doors.lock();
        doors.get(to).map(|door| View {
            standing: door.breaker.standing(),
            failures: door.breaker.failures(),
            inside: door.inside,
            waiting: door.line.len(),
            book: door.book.clone(),
        })
    }

    /// Where its breaker stands.
    pub fn standing(&self, task: &AiTaskKey) -> Standing {
        let doors = self.doors.lock();
        doors.get(&to(task)).map_or(Standing::Ready, |door| door.breaker.standing())
    }

    /// Has `task` looked at now.
    pub fn wake(&self, task: Option<AiTaskKey>) {
        if let Some(task) = task {
            // A queue that is full forgets the task; the resync that follows finds it again.
            self.queue.wake(task);
        }
    }
}

impl Door {
    /// Puts `task` into the line; whether it is the first there.
    fn wait(&mut self, task: &AiTaskKey) -> bool {
        if self.waiting.insert(task.clone()) {
            self.line.push_back(task.clone());
        }
        self.line.front() == Some(task)
    }

    fn forget(&mut self, task: &AiTaskKey) {
        if self.waiting.remove(task) {
            self.line.retain(|waiting| waiting != task);
        }
    }

    /// The first in line, where there is room. It stays in line until it comes in or gives up: one that is woken twice
    /// takes one place.
    fn next(&self, limit: usize) -> Option<AiTaskKey> {
        let room = self.inside < limit && self.breaker.standing() == Standing::Ready;
        room.then(|| self.line.front().cloned()).flatten()
    }
}

impl Book {
    fn note(&mut self, ended: &Ended) {
        *self.outcomes.entry(ended.outcome).or_default() += 1;
        match ended.verdict {
            Verdict::Well => {
                self.last_success = Some(ended.at);
                if self.latencies.len() == SAMPLES {
                    self.latencies.pop_front();
                }
                self.latencies.push_back(ended.took);
            }
            Verdict::Ill => self.last_failure = Some(ended.at),
            Verdict::Nothing => {}
        }
    }

    /// What `percent` of the last answers did not exceed; `None` before the first.
    pub fn latency(&self, percent: usize) -> Option<Duration> {
        let mut sorted: Vec<Duration> = self.latencies.iter().copied().collect();
        sorted.sort_unstable();
        let rank = (sorted.len() * percent).div_ceil(100).max(1) - 1;
        sorted.get(rank).copied()
    }
}

impl Pass {
    /// The call has ended.
    pub fn end(mut self, ended: &Ended) {
        (self.verdict, self.ended_at) = (ended.verdict, ended.at);
        let mut doors = self.gate.doors.lock();
        if let Some(door) = doors.get_mut(&self.to) {
            door.book.note(ended);
        }
        drop(doors);
    }
}

impl Drop for Pass {
    fn drop(&mut self) {
        let first = {
            let mut doors = self.gate.doors.lock();
            let Some(door) = doors.get_mut(&self.to) else { return };
            door.inside -= 1;
            door.breaker.end(self.probe, self.verdict, &self.gate.tolerance, self.ended_at);
            // Also where the breaker has just opened: the first in line is who looks when its time is over.
            door.line.front().cloned()
        };
        self.gate.wake(first);
    }
}

fn to(task: &AiTaskKey) -> To {
    (task.tenant.clone(), task.service.clone())
}

#[cfg(test)]
mod tests {
    use isocenter_runtime::clock::TestClock;

    use super::*;

    const TOLERANCE: Tolerance = Tolerance { failures: 2, open: Duration::from_micros(50) };

    fn task(service: &str, revision: u32) -> AiTaskKey {
        let service = service.parse().unwrap();
        AiTaskKey { tenant: "t".parse().unwrap(), study: "1.2".parse().unwrap(), service, revision }
    }

    fn gate() -> (Gate, Queue<AiTaskKey>) {
        let queue = Queue::bounded(TestClock::new(Time(0)).shared(), 100);
        (Gate::new(queue.clone(), TOLERANCE), queue)
    }

    fn enter(gate: &Gate, task: &AiTaskKey, limit: usize, now: i64) -> Result<Pass, Option<Time>> {
        match gate.enter(task, limit, None, Time(now)) {
            Turn::Now(pass) => Ok(pass),
            Turn::Later(at) => Err(at),
        }
    }

    fn ended(verdict: Verdict, micros: u64) -> Ended {
        let outcome = if verdict == Verdict::Well { "answered" } else { "error" };
        Ended { outcome, verdict, took: Duration::from_micros(micros), at: Time(10) }
    }

    #[test]
    fn a_full_service_lets_tasks_in_as_others_leave_and_holds_up_nobody_else() {
        let (gate, queue) = gate();
        let mut inside: Vec<Pass> = (0..2).map(|n| enter(&gate, &task("a", n), 2, 0).unwrap()).collect();
        for n in [2, 2, 3] {
            assert_eq!(enter(&gate, &task("a", n), 2, 0).unwrap_err(), None);
        }
        assert!(enter(&gate, &task("b", 2), 2, 0).is_ok());
        assert!(queue.is_empty());
        inside.pop();
        assert_eq!(queue.len(), 1, "one left, one is woken");
        // The one whose turn it was is superseded: the turn goes on.
        gate.forgo(&task("a", 2));
        assert_eq!(queue.len(), 2);
        inside.push(enter(&gate, &task("a", 3), 2, 0).unwrap());
        assert!(enter(&gate, &task("a", 4), 2, 0).is_err());
        assert!(enter(&gate, &task("a", 5), 2, 0).is_err());
        // The service takes more than before: who comes in has the next one follow.
        inside.push(enter(&gate, &task("a", 4), 4, 0).unwrap());
        assert_eq!(queue.len(), 3);
        inside.push(enter(&gate, &task("a", 5), 4, 0).unwrap());
        inside.clear();
        let view = gate.view(&to(&task("a", 0))).unwrap();
        assert_eq!((view.inside, view.waiting), (0, 0));
        assert_eq!(queue.len(), 3, "nobody is woken after having entered");
    }

    #[test]
    fn a_service_that_fails_is_left_alone_and_one_task_looks_after_it() {
        let (gate, queue) = gate();
        for n in 0..2 {
            enter(&gate, &task("a", n), 4, 0).unwrap().end(&ended(Verdict::Ill, 1));
        }
        assert_eq!(
            enter(&gate, &task("a", 2), 4, 20).unwrap_err(),
            Some(Time(60)),
            "the first in line looks"
        );
        assert_eq!(enter(&gate, &task("a", 3), 4, 20).unwrap_err(), None, "the others follow");
        assert!(enter(&gate, &task("b", 3), 4, 20).is_ok(), "another service is not touched");
        gate.forgo(&task("a", 2));
        assert_eq!(queue.len(), 1, "who looks is replaced");
        let probe = enter(&gate, &task("a", 3), 4, 60).unwrap();
        assert!(enter(&gate, &task("a", 4), 4, 70).is_err(), "one at a time");
        assert!(enter(&gate, &task("a", 5), 4, 70).is_err());
        probe.end(&ended(Verdict::Well, 1));
        let inside = [enter(&gate, &task("a", 4), 4, 70).unwrap()];
        assert_eq!(queue.len(), 3, "who comes in has the next one follow");
        assert_eq!((gate.standing(&task("a", 0)), inside.len()), (Standing::Ready, 1));
    }

    #[test]
    fn tasks_that_go_to_another_process_hold_up_nobody() {
        let (gate, queue) = gate();
        let inside = enter(&gate, &task("a", 0), 1, 0).unwrap();
        for n in 1..4 {
            assert!(enter(&gate, &task("a", n), 1, 0).is_err());
        }
        gate.review(|task| task.revision == 3);
        assert_eq!(
            (queue.len(), gate.view(&to(&task("a", 0))).unwrap().waiting),
            (1, 1),
            "the first that is left looks"
        );
        drop(inside);
        assert!(enter(&gate, &task("a", 3), 1, 0).is_ok());
    }

    #[test]
    fn what_a_service_says_of_itself_closes_it_too() {
        let (gate, queue) = gate();
        let closed = |n| gate.enter(&task("a", n), 4, Some(Time(9)), Time(1));
        assert!(matches!(closed(1), Turn::Later(Some(Time(9)))));
        assert!(matches!(closed(2), Turn::Later(None)));
        gate.look(&to(&task("a", 0)));
        assert_eq!(queue.len(), 1);
    }

    #[test]
    fn the_book_has_the_last_answers() {
        let (gate, _) = gate();
        for micros in 1..=300 {
            enter(&gate, &task("a", 0), 1, 0).unwrap().end(&ended(Verdict::Well, micros));
        }
        drop(enter(&gate, &task("a", 0), 1, 0).unwrap());
        let book = gate.view(&to(&task("a", 0))).unwrap().book;
        assert_eq!((book.outcomes["answered"], book.latencies.len()), (300, SAMPLES));
        let at = |percent| book.latency(percent).unwrap().as_micros();
        assert_eq!((at(0), at(50), at(95), at(100)), (45, 172, 288, 300));
        assert_eq!(Book::default().latency(50), None);
        assert_eq!((book.last_success, book.last_failure), (Some(Time(10)), None));
    }
}
