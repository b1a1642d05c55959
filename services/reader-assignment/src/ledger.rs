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
    record::read::{Read, ReadState},
};
use parking_lot::Mutex;

/// What was opened and signed.
#[derive(Debug, Default)]
pub(crate) struct Ledger(Mutex<Inner>);

#[derive(Debug, Default)]
struct Inner {
    /// Reads that are open: by whom, since when. At most as many as readers have in hand.
    opened: BTreeMap<ReadKey, Opened>,
    /// In the order in which they were seen; those of the last [`Ledger::DAY`].
    signed: BTreeMap<HoldingKey, VecDeque<Signed>>,
    estimates: BTreeMap<TenantId, Estimates>,
}

#[derive(Debug)]
struct Opened {
    reader: ReaderId,
    since: Time,
    /// For how long it was set aside, up to the last time it was taken up.
    aside: Duration,
    aside_since: Option<Time>,
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
    pub fn see(&self, key: &ReadKey, read: &Read, needs: impl Fn() -> Needs) {
        let inner = &mut *self.0.lock();
        if let Some(signed) = &read.preliminary {
            inner.signed(key, &signed.reader, signed.at, &needs());
        }
        match &read.state {
            ReadState::Open { reader, since, .. } => inner.opened(key, reader, *since),
            ReadState::Suspended { reader, since, .. } => {
                let opened = inner.opened.get_mut(key).filter(|opened| opened.reader == *reader);
                if let Some(opened) = opened {
                    opened.aside_since = Some(*since);
                }
            }
            ReadState::Signed { reader, at, .. } | ReadState::NonDiagnostic { reader, at, .. } => {
                inner.signed(key, reader, *at, &needs());
            }
            ReadState::Waiting
            | ReadState::AwaitingFinal
            | ReadState::Offered { .. }
            | ReadState::Cancelled { .. } => {
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

    /// Taking a read up again does not begin it anew; another reader does.
    fn opened(&mut self, key: &ReadKey, reader: &ReaderId, since: Time) {
        let (reader, aside) = (reader.clone(), Duration::ZERO);
        let anew = Opened { reader, since, aside, aside_since: None };
        match self.opened.get_mut(key) {
            Some(opened) if opened.reader == anew.reader => {
                if let Some(from) = opened.aside_since.take() {
                    opened.aside += since.since(from);
                }
            }
            Some(_) | None => {
                self.opened.insert(key.clone(), anew);
            }
        }
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
        let Some(opened) = self.opened.remove(key).filter(|opened| opened.reader == *reader) else { return };
        let (reader, opened_at, suspended) = (opened.reader, opened.since, opened.aside);
        let seen = Observation { reader, exam, opened_at, signed_at: at, suspended };
        if let Err(absurd) = self.of(&key.tenant).observe(&seen) {
            tracing::debug!(error = %absurd, "nothing is learnt from how long a read took");
        }
    }
}
