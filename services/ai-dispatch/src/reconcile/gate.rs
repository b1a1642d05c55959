//! How many calls of one service are under way from this process. A service that does not answer holds up its own tasks,
//! never those of another.

use std::{
    collections::{BTreeMap, BTreeSet, VecDeque},
    sync::Arc,
};

use isocenter_domain::{
    id::{AiServiceId, TenantId},
    key::AiTaskKey,
};
use isocenter_reconcile::Queue;
use parking_lot::Mutex;

type To = (TenantId, AiServiceId);

/// Lets tasks pass. Clones are the same gate.
#[derive(Clone, Debug)]
pub(crate) struct Gate {
    queue: Queue<AiTaskKey>,
    doors: Arc<Mutex<BTreeMap<To, Door>>>,
}

/// Tasks at one service. Those that wait are each one that the queue knows, so that they are bounded with it.
#[derive(Debug, Default)]
struct Door {
    inside: usize,
    line: VecDeque<AiTaskKey>,
    waiting: BTreeSet<AiTaskKey>,
}

/// The right to call; ends with the value.
#[derive(Debug)]
pub(crate) struct Pass {
    gate: Gate,
    to: To,
}

impl Gate {
    /// A gate that wakes waiting tasks in `queue`.
    pub fn new(queue: Queue<AiTaskKey>) -> Self {
        Self { queue, doors: Arc::default() }
    }

    /// Lets `task` pass if fewer than `limit` are inside; else it is woken when one leaves, in the order in which they
    /// came.
    pub fn enter(&self, task: &AiTaskKey, limit: usize) -> Option<Pass> {
        let to = to(task);
        let mut doors = self.doors.lock();
        let door = doors.entry(to.clone()).or_default();
        if door.inside >= limit {
            if door.waiting.insert(task.clone()) {
                door.line.push_back(task.clone());
            }
            return None;
        }
        // A task may have been let in without having been woken, e.g. after the limit was raised.
        door.forget(task);
        door.inside += 1;
        Some(Pass { gate: self.clone(), to })
    }

    /// `task` will not enter: if it was its turn, it is the next one's.
    pub fn forgo(&self, task: &AiTaskKey) {
        let next = {
            let mut doors = self.doors.lock();
            let Some(door) = doors.get_mut(&to(task)) else { return };
            door.forget(task);
            door.next()
        };
        self.wake(next);
    }

    fn wake(&self, task: Option<AiTaskKey>) {
        if let Some(task) = task {
            // A queue that is full forgets the task; the resync that follows finds it again.
            self.queue.wake(task);
        }
    }
}

impl Door {
    fn forget(&mut self, task: &AiTaskKey) {
        if self.waiting.remove(task) {
            self.line.retain(|waiting| waiting != task);
        }
    }

    fn next(&mut self) -> Option<AiTaskKey> {
        let next = self.line.pop_front()?;
        self.waiting.remove(&next);
        Some(next)
    }
}

impl Drop for Pass {
    fn drop(&mut self) {
        let next = {
            let mut doors = self.gate.doors.lock();
            let Some(door) = doors.get_mut(&self.to) else { return };
            door.inside -= 1;
            let next = door.next();
            if next.is_none() && door.inside == 0 {
                doors.remove(&self.to);
            }
            next
        };
        self.gate.wake(next);
    }
}

fn to(task: &AiTaskKey) -> To {
    (task.tenant.clone(), task.service.clone())
}

#[cfg(test)]
mod tests {
    use isocenter_domain::Time;
    use isocenter_runtime::clock::TestClock;

    use super::*;

    fn task(service: &str, revision: u32) -> AiTaskKey {
        let service = service.parse().unwrap();
        AiTaskKey { tenant: "t".parse().unwrap(), study: "1.2".parse().unwrap(), service, revision }
    }

    #[test]
    fn a_full_service_lets_tasks_in_as_others_leave_and_holds_up_nobody_else() {
        let queue = Queue::bounded(TestClock::new(Time(0)).shared(), 100);
        let gate = Gate::new(queue.clone());
        let mut inside: Vec<Pass> = (0..2).map(|n| gate.enter(&task("a", n), 2).unwrap()).collect();
        for n in [2, 2, 3] {
            assert!(gate.enter(&task("a", n), 2).is_none());
        }
        assert!(gate.enter(&task("b", 2), 2).is_some());
        assert!(queue.is_empty());
        inside.pop();
        assert_eq!(queue.len(), 1, "one left, one is woken");
        // The one whose turn it was is superseded: the turn goes on.
        gate.forgo(&task("a", 2));
        assert_eq!(queue.len(), 2);
        inside.push(gate.enter(&task("a", 3), 2).unwrap());
        assert!(gate.enter(&task("a", 4), 2).is_none());
        inside.push(gate.enter(&task("a", 4), 3).unwrap());
        inside.clear();
        assert!(gate.doors.lock().is_empty());
        assert_eq!(queue.len(), 2, "nobody is woken after having entered");
    }
}
