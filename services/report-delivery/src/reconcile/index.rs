//! Which cases have something to deliver on which lane, as the mirror of deliveries says.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use isocenter_domain::{
    Time,
    id::{CaseId, DestinationId, TenantId},
    key::{DeliveryKey, LaneKey},
    record::delivery::Delivery,
    refs::Ref,
};
use parking_lot::Mutex;

use crate::plan;

/// The unsettled deliveries of every lane. Some 300 bytes for each delivery that is not accepted yet; those are what the
/// network owes at the moment, not its history.
#[derive(Debug, Default)]
pub(crate) struct Index(Mutex<State>);

#[derive(Debug, Default)]
struct State {
    lanes: BTreeMap<LaneKey, BTreeSet<(Time, DeliveryKey)>>,
    places: HashMap<DeliveryKey, (LaneKey, Time)>,
}

impl Index {
    /// Takes over what `key` is now, `None` if it is gone; returns its lane while something is to be delivered there.
    pub fn apply(&self, key: &DeliveryKey, now: Option<&Delivery>) -> Option<LaneKey> {
        let mut state = self.0.lock();
        let was = state.remove(key);
        let lane = match now {
            Some(delivery) if !delivery.settled() => Some(state.insert(key, delivery)),
            Some(delivery) => Some(plan::lane_of(key, delivery)),
            None => was,
        };
        lane.filter(|lane| state.lanes.contains_key(lane))
    }

    /// Starts again from everything there is; returns the lanes on which something is to be delivered.
    pub fn reset<'a>(&self, all: impl Iterator<Item = (&'a DeliveryKey, &'a Delivery)>) -> Vec<LaneKey> {
        let mut state = self.0.lock();
        *state = State::default();
        for (key, delivery) in all.filter(|(_, d)| !d.settled()) {
            state.insert(key, delivery);
        }
        state.lanes.keys().cloned().collect()
    }

    /// The lanes to a destination on which something is to be delivered.
    pub fn lanes_to(&self, tenant: &TenantId, to: &DestinationId) -> Vec<LaneKey> {
        let lane = |n| LaneKey { tenant: tenant.clone(), destination: to.clone(), accession: Ref([n; 16]) };
        let state = self.0.lock();
        state.lanes.range(lane(0)..=lane(u8::MAX)).map(|(lane, _)| lane.clone()).collect()
    }

    /// When the first delivery of a lane was signed.
    pub fn first_signed(&self, lane: &LaneKey) -> Option<Time> {
        self.0.lock().lanes.get(lane)?.first().map(|(at, _)| *at)
    }

    /// The cases of the first `most` deliveries of a lane, in the order of their signing.
    pub fn first_cases(&self, lane: &LaneKey, most: usize) -> BTreeSet<CaseId> {
        let state = self.0.lock();
        let first = state.lanes.get(lane).into_iter().flatten().take(most);
        first.map(|(_, key)| key.report.read.case.clone()).collect()
    }
}

impl State {
    fn insert(&mut self, key: &DeliveryKey, delivery: &Delivery) -> LaneKey {
        let lane = plan::lane_of(key, delivery);
        self.places.insert(key.clone(), (lane.clone(), delivery.signed_at));
        self.lanes.entry(lane.clone()).or_default().insert((delivery.signed_at, key.clone()));
        lane
    }

    fn remove(&mut self, key: &DeliveryKey) -> Option<LaneKey> {
        let (lane, signed_at) = self.places.remove(key)?;
        if let Some(entries) = self.lanes.get_mut(&lane) {
            entries.remove(&(signed_at, key.clone()));
            if entries.is_empty() {
                self.lanes.remove(&lane);
            }
        }
        Some(lane)
    }
}

#[cfg(test)]
mod tests {
    use isocenter_domain::{
        id::{CaseId, ReadId},
        key::ReportKey,
        record::{delivery::DeliveryState, report::ReportKind},
    };

    use super::*;

    #[test]
    fn a_lane_is_there_while_something_on_it_is_owed() {
        let tenant: isocenter_domain::id::TenantId = "t".parse().unwrap();
        let case = CaseId::of(&tenant, &"1.2".parse().unwrap());
        let key = |n| DeliveryKey {
            report: ReportKey { tenant: tenant.clone(), read: ReadId { case: case.clone(), n }, version: 1 },
            destination: "ris".parse().unwrap(),
        };
        let pending = Delivery {
            state: DeliveryState::Pending,
            message_id: "id".into(),
            kind: ReportKind::Final,
            accession: Ref([1; 16]),
            signed_at: Time(5),
            attempts: 0,
            since: Time(5),
        };
        let accepted =
            Delivery { state: DeliveryState::ApplicationAccepted { at: Time(6) }, ..pending.clone() };
        let lane = plan::lane_of(&key(1), &pending);
        let index = Index::default();
        assert_eq!(index.apply(&key(1), Some(&pending)), Some(lane.clone()));
        assert_eq!(index.apply(&key(2), Some(&pending)), Some(lane.clone()));
        assert_eq!(index.lanes_to(&tenant, &"ris".parse().unwrap()), std::slice::from_ref(&lane));
        assert_eq!(index.lanes_to(&tenant, &"emr".parse().unwrap()), []);
        assert_eq!(index.first_signed(&lane), Some(Time(5)));
        assert_eq!(index.first_cases(&lane, 4), BTreeSet::from([case.clone()]));
        assert_eq!(index.apply(&key(1), Some(&accepted)), Some(lane.clone()));
        assert_eq!(index.apply(&key(2), None), None);
        assert_eq!(index.first_cases(&lane, 4), BTreeSet::new());
        assert_eq!(index.reset([(&key(1), &accepted), (&key(2), &pending)].into_iter()), [lane]);
    }
}
