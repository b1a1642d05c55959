//! What readers have done lately, as this replica has seen it: the points of their shift, and how long reads take.
//!
//! Kept from the mirrors on every replica, so that a new leader knows it. What the archive had closed before a replica
//! started is not in it: a capacity in points then counts from what is still live, and estimates begin at their prior.

use std::{
    collections::{BTreeMap, VecDeque},
    time::Duration,
};

use isocenter_assign::{
    Needs, Work,
    estimate::{Estimates, Exam, Observation, Prior},
};
use isocenter_domain::{
    Time,
    id::{ReaderId, TenantId},
    key::{HoldingKey, ReadKey},
    record::read::ReadState,
};
use parking_lot::Mutex;

/// What was opened and signed.
#[derive(Debug, Default)]
pub(crate) struct Ledger(Mutex<Inner>);

#[derive(Debug, Default)]
struct Inner {
    /// Reads that are open: by whom, since when. At most as many as readers have in hand.
    opened: BTreeMap<ReadKey, (ReaderId, Time)>,
    /// In the order in which they were seen; those of the last [`Ledger::DAY`].
    signed: BTreeMap<HoldingKey, VecDeque<Signed>>,
    estimates: BTreeMap<TenantId, Estimates>,
}

#[derive(Debug)]
struct Signed {
    read: ReadKey,
    at: Time,
    points: u32,
}

impl Ledger {
    /// What counts as one shift of a reader who has no roster.
    pub const SHIFT: Duration = Duration::from_secs(12 * 60 * 60);
    /// Nobody's shift is longer.
    const DAY: Duration = Duration::from_secs(24 * 60 * 60);

    /// Takes note of a read as it is. The same state again changes nothing.
    pub fn see(&self, key: &ReadKey, state: &ReadState, needs: &Needs) {
        let inner = &mut *self.0.lock();
        match state {
            ReadState::Open { reader, since, .. } => {
                let opened = inner.opened.entry(key.clone()).or_insert_with(|| (reader.clone(), *since));
                // Taking it up again does not begin it anew; another reader does.
                if opened.0 != *reader {
                    *opened = (reader.clone(), *since);
                }
            }
            ReadState::Signed { reader, at, .. } => inner.signed(key, reader, *at, needs),
            ReadState::Waiting | ReadState::Offered { .. } => {
                inner.opened.remove(key);
            }
        }
    }

    /// The points that a reader has signed since `since`.
    pub fn points(&self, reader: &HoldingKey, since: Time) -> u32 {
        let inner = self.0.lock();
        let signed = inner.signed.get(reader).into_iter().flatten();
        signed.filter(|signed| signed.at >= since).fold(0, |sum, signed| sum.saturating_add(signed.points))
    }

    /// The work that a read of these needs is expected to be.
    pub fn work(&self, tenant: &TenantId, needs: &Needs) -> Work {
        self.0.lock().of(tenant).work(&Exam::of(needs))
    }

    /// The time a reader takes, in thousandths of what is expected.
    pub fn pace(&self, reader: &HoldingKey) -> u32 {
        self.0.lock().of(&reader.tenant).pace(&reader.reader)
    }
}

impl Inner {
    fn of(&mut self, tenant: &TenantId) -> &mut Estimates {
        self.estimates.entry(tenant.clone()).or_insert_with(|| Estimates::new(Prior::default()))
    }

    fn signed(&mut self, key: &ReadKey, reader: &ReaderId, at: Time, needs: &Needs) {
        let exam = Exam::of(needs);
        let points = self.of(&key.tenant).work(&exam).points;
        let holder = HoldingKey { tenant: key.tenant.clone(), reader: reader.clone() };
        let signed = self.signed.entry(holder).or_default();
        if signed.iter().any(|known| known.read == *key && known.at == at) {
            return;
        }
        signed.push_back(Signed { read: key.clone(), at, points });
        let newest = signed.iter().map(|known| known.at).max().unwrap_or(at);
        signed.retain(|known| newest.since(known.at) <= Ledger::DAY);
        let Some((opener, opened_at)) = self.opened.remove(key) else { return };
        if opener != *reader {
            return;
        }
        let seen = Observation { reader: opener, exam, opened_at, signed_at: at, suspended: Duration::ZERO };
        if let Err(absurd) = self.of(&key.tenant).observe(&seen) {
            tracing::debug!(error = %absurd, "nothing is learnt from how long a read took");
        }
    }
}
