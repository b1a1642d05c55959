//! How many lanes send to one destination at a time. A destination that does not answer holds up its own lanes, never
//! those of another.

use std::{
    collections::{BTreeMap, BTreeSet, VecDeque},
    sync::Arc,
};

use isocenter_domain::{
    id::{DestinationId, TenantId},
    key::LaneKey,
};
use isocenter_reconcile::Queue;
use parking_lot::Mutex;

/// Connections to one destination at a time. Receivers of record systems are often single-threaded; four keep one busy
/// in spite of the network between, and a burst cannot swamp it.
pub(crate) const CONNECTIONS: usize = 4;

type To = (TenantId, DestinationId);

/// Lets lanes pass. Clones are the same gate.
#[derive(Clone, Debug)]
pub(crate) struct Gate {
    queue: Queue<LaneKey>,
    doors: Arc<Mutex<BTreeMap<To, Door>>>,
}

/// Lanes at one destination. Those in line are in no queue: each is one that the index knows, so that they are bounded by
/// what is owed.
#[derive(Debug, Default)]
struct Door {
    /// Places taken, those kept for the called included.
    taken: usize,
    line: VecDeque<LaneKey>,
    /// Who is in line.
    waiting: BTreeSet<LaneKey>,
    /// Woken, each with a place kept: no newcomer overtakes them.
    called: BTreeSet<LaneKey>,
}

/// The right to send; ends with the value.
#[derive(Debug)]
pub(crate) struct Pass {
    gate: Gate,
    to: To,
}

impl Gate {
    /// A gate that wakes waiting lanes in `queue`.
    pub fn new(queue: Queue<LaneKey>) -> Self {
        Self { queue, doors: Arc::default() }
    }

    /// Lets `lane` pass; `None` where enough others are inside: the lane is woken when it is its turn.
    pub fn enter(&self, lane: &LaneKey) -> Option<Pass> {
        let to = to(lane);
        let mut doors = self.doors.lock();
        let door = doors.entry(to.clone()).or_default();
        if !door.called.remove(lane) {
            if door.taken >= CONNECTIONS {
                if door.waiting.insert(lane.clone()) {
                    door.line.push_back(lane.clone());
                }
                return None;
            }
            door.taken += 1;
        }
        Some(Pass { gate: self.clone(), to })
    }

    /// `lane` has nothing to send now: a place that was kept for it goes to the next in line.
    pub fn decline(&self, lane: &LaneKey) {
        let to = to(lane);
        let called = self.doors.lock().get_mut(&to).is_some_and(|door| door.called.remove(lane));
        if called {
            self.leave(&to);
        }
    }

    /// All lanes of this process are about to be looked at anew: kept places and lines begin anew with them. A lane that is
    /// another process's by now is never taken from the queue, and would keep its place for ever.
    pub fn begin_anew(&self) {
        self.doors.lock().retain(|_, door| {
            door.taken -= door.called.len();
            door.called.clear();
            door.waiting.clear();
            door.line.clear();
            door.taken > 0
        });
    }

    fn leave(&self, to: &To) {
        let mut doors = self.doors.lock();
        let Some(door) = doors.get_mut(to) else { return };
        while let Some(next) = door.line.pop_front() {
            door.waiting.remove(&next);
            // A queue that is full forgets the lane; the resync that follows finds it again.
            if self.queue.wake(next.clone()) {
                door.called.insert(next);
                return;
            }
        }
        door.taken -= 1;
        if door.taken == 0 {
            doors.remove(to);
        }
    }
}

fn to(lane: &LaneKey) -> To {
    (lane.tenant.clone(), lane.destination.clone())
}

impl Drop for Pass {
    fn drop(&mut self) {
        self.gate.leave(&self.to);
    }
}

#[cfg(test)]
mod tests {
    use isocenter_domain::{Time, refs::Ref};
    use isocenter_runtime::clock::TestClock;

    use super::*;

    #[test]
    fn a_full_destination_lets_lanes_in_by_turns_and_holds_up_nobody_else() {
        let queue = Queue::bounded(TestClock::new(Time(0)).shared(), 100);
        let gate = Gate::new(queue.clone());
        let lane = |to: &str, n| LaneKey {
            tenant: "t".parse().unwrap(),
            destination: to.parse().unwrap(),
            accession: Ref([n; 16]),
        };
        let mut inside: Vec<Pass> = (0..4).map(|n| gate.enter(&lane("north", n)).unwrap()).collect();
        for n in [4, 4, 5, 6] {
            assert!(gate.enter(&lane("north", n)).is_none());
        }
        assert!(gate.enter(&lane("south", 4)).is_some());
        assert!(queue.is_empty());
        inside.pop();
        // The place is kept for the lane that was called.
        assert_eq!(queue.len(), 1);
        assert!(gate.enter(&lane("north", 7)).is_none());
        inside.push(gate.enter(&lane("north", 4)).unwrap());
        // Whoever is called and has nothing to send any more lets the next one in.
        inside.pop();
        gate.decline(&lane("north", 5));
        gate.decline(&lane("north", 5));
        inside.push(gate.enter(&lane("north", 6)).unwrap());
        inside.clear();
        inside.push(gate.enter(&lane("north", 7)).unwrap());
        inside.clear();
        assert!(gate.doors.lock().is_empty());
    }

    #[test]
    fn a_lane_that_went_to_another_process_keeps_no_place() {
        let gate = Gate::new(Queue::bounded(TestClock::new(Time(0)).shared(), 100));
        let lane = |n| LaneKey {
            tenant: "t".parse().unwrap(),
            destination: "north".parse().unwrap(),
            accession: Ref([n; 16]),
        };
        let mut inside: Vec<Pass> = (0..4).map(|n| gate.enter(&lane(n)).unwrap()).collect();
        assert!(gate.enter(&lane(4)).is_none() && gate.enter(&lane(5)).is_none());
        // The fourth is called, and never comes; the fifth waits, and never comes either.
        inside.pop();
        assert!(gate.enter(&lane(6)).is_none());
        gate.begin_anew();
        inside.push(gate.enter(&lane(6)).unwrap());
        inside.clear();
        assert!(gate.doors.lock().is_empty());
    }
}
