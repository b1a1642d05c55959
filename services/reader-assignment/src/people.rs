//! Who is registered, as the queue sees them: what the registry says, resolved to this moment.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
    time::Duration,
};

use isocenter_assign::{Capacity, Duty, Exclusion, Load, ReaderProfile, overflow::Rule};
use isocenter_domain::{
    Time,
    id::{PoolId, ReaderId, TenantId},
    key::{HoldingKey, RegistryItem, RegistryKey},
    record::registry::{Entry, Overflow, Reader},
    refs::Ref,
};
use isocenter_policy::roster::{self, Resolved, Timetable};
use isocenter_runtime::clock::Clock;
use isocenter_store::{
    Revision,
    table::{Mirror, Stored},
};
use parking_lot::Mutex;

use crate::{ledger::Ledger, plan::item};

/// What a full share asks for: points (thousandths of a relative value unit) an hour. Only the shares' proportions matter
/// to who is chosen; this is what explanations show beside them.
const FULL_RATE: u32 = 10_000;

/// Of a capacity in points, the part after which a reader is spared.
const SPARED_PERCENT: u32 = 80;

/// The registered readers.
#[derive(Clone)]
pub(crate) struct People {
    clock: Arc<dyn Clock>,
    known: Arc<Mutex<BTreeMap<RegistryKey, Known>>>,
    conflicts: Arc<Mutex<Conflicts>>,
    overflows: Arc<Mutex<Overflows>>,
}

/// Where each pool's work overflows to.
type Overflows = BTreeMap<TenantId, Arc<BTreeMap<PoolId, Rule>>>;

/// Whom patients' reads exclude.
type Conflicts = BTreeMap<TenantId, BTreeMap<Ref, BTreeSet<ReaderId>>>;

/// What was resolved of one entry.
#[derive(Debug)]
struct Known {
    revision: Revision,
    profile: ReaderProfile,
    table: Option<Timetable>,
    resolved: Option<Resolved>,
}

impl std::fmt::Debug for People {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("People").field("known", &self.known).finish_non_exhaustive()
    }
}

impl People {
    pub fn new(clock: Arc<dyn Clock>) -> Self {
        Self { clock, known: Arc::default(), conflicts: Arc::default(), overflows: Arc::default() }
    }

    pub fn now(&self) -> Time {
        self.clock.now()
    }

    /// A registered reader at this moment, absent and with empty hands. `entry` may be newer than any mirror.
    pub fn of(&self, entry: &Stored<Entry>, ledger: &Ledger) -> Option<ReaderProfile> {
        let (RegistryItem::Reader(id), Entry::Reader(registered)) = (&entry.key.item, &entry.record) else {
            return None;
        };
        let now = self.now();
        let known = &mut *self.known.lock();
        let known =
            known.entry(entry.key.clone()).or_insert_with(|| Known::of(id, registered, entry.mod_revision));
        if known.revision != entry.mod_revision {
            *known = Known::of(id, registered, entry.mod_revision);
        }
        let mut profile = known.profile.clone();
        let key = HoldingKey { tenant: entry.key.tenant.clone(), reader: id.clone() };
        profile.pace = ledger.pace(&key);
        profile.load.target_rate = rate(registered);
        if let Some(table) = &known.table {
            let resolved = match known.resolved {
                Some(resolved) if now < resolved.until && resolved.from <= now => resolved,
                Some(_) | None => *known.resolved.insert(table.at(now)),
            };
            let began = match resolved.duty {
                roster::Duty::Off => now,
                roster::Duty::On { since, .. } | roster::Duty::Break { since, .. } => since,
            };
            profile.duty = duty(resolved.duty);
            profile.load.on_shift = table.works(began, now);
            profile.load.points = ledger.points(&key, began);
        } else {
            profile.load = Load { points: ledger.points(&key, now.minus(Ledger::SHIFT)), ..profile.load };
        }
        Some(profile)
    }

    /// How long a reader works from a time on, by the roster; none where there is none.
    pub fn works(&self, reader: &RegistryKey, from: Time, lasts: Duration) -> Option<Duration> {
        let known = self.known.lock();
        Some(known.get(reader)?.table.as_ref()?.works(from, from.plus(lasts)))
    }

    /// Takes everybody's conflicts of interest and every pool's overflow anew; says whether any changed.
    pub fn learn(&self, registry: &Mirror<Entry>) -> bool {
        let entries = registry.all();
        let overflows = overflows(&entries);
        let mut conflicts = Conflicts::new();
        let mut present = BTreeSet::new();
        for entry in &entries {
            let (RegistryItem::Reader(id), Entry::Reader(reader)) = (&entry.key.item, &entry.record) else {
                continue;
            };
            present.insert(entry.key.clone());
            let of_tenant = conflicts.entry(entry.key.tenant.clone()).or_default();
            for patient in &reader.conflicts.patients {
                of_tenant.entry(*patient).or_default().insert(id.clone());
            }
        }
        conflicts.retain(|_, patients| !patients.is_empty());
        self.known.lock().retain(|key, _| present.contains(key));
        let (old_conflicts, old_overflows) = (&mut *self.conflicts.lock(), &mut *self.overflows.lock());
        let changed = *old_conflicts != conflicts || *old_overflows != overflows;
        (*old_conflicts, *old_overflows) = (conflicts, overflows);
        changed
    }

    /// Where the pools' work overflows to.
    pub fn overflows(&self, tenant: &TenantId) -> Arc<BTreeMap<PoolId, Rule>> {
        self.overflows.lock().get(tenant).cloned().unwrap_or_default()
    }

    /// Whom the reads of a patient exclude.
    pub fn conflicted(&self, tenant: &TenantId, patient: Ref) -> BTreeMap<ReaderId, Exclusion> {
        let conflicts = self.conflicts.lock();
        let readers = conflicts.get(tenant).and_then(|patients| patients.get(&patient));
        readers.into_iter().flatten().map(|reader| (reader.clone(), Exclusion::Conflict)).collect()
    }
}

impl Known {
    fn of(id: &ReaderId, registered: &Reader, revision: Revision) -> Self {
        let table = registered.roster.as_ref().map(Timetable::of).transpose();
        let (table, refused) = match table {
            Ok(table) => (table, false),
            Err(e) => {
                tracing::error!(reader = %id, error = %e, "a roster cannot be resolved; the reader counts as off shift");
                (None, true)
            }
        };
        let mut profile = item::profile(id, registered);
        if refused {
            profile.duty = Duty::Off;
        }
        profile.capacity = Capacity {
            soft_points: registered.capacity.map(|most| most / 100 * SPARED_PERCENT),
            hard_points: registered.capacity,
            ..Capacity::default()
        };
        Self { revision, profile, table, resolved: None }
    }
}

fn overflows(entries: &[Arc<Stored<Entry>>]) -> Overflows {
    let mut rules: BTreeMap<TenantId, BTreeMap<PoolId, Rule>> = BTreeMap::new();
    for entry in entries {
        let (RegistryItem::Pool(id), Entry::Pool(pool)) = (&entry.key.item, &entry.record) else { continue };
        if let Some(overflow) = &pool.overflow {
            let Overflow { to, at_percent, predicted_wait } = overflow.clone();
            let of_tenant = rules.entry(entry.key.tenant.clone()).or_default();
            of_tenant.insert(id.clone(), Rule { to, at_percent, predicted_wait });
        }
    }
    rules.into_iter().map(|(tenant, rules)| (tenant, Arc::new(rules))).collect()
}

/// The points an hour that are a reader's share.
fn rate(registered: &Reader) -> u32 {
    FULL_RATE / Reader::FULL_SHARE * registered.share.unwrap_or(Reader::FULL_SHARE)
}

const fn duty(duty: roster::Duty) -> Duty {
    match duty {
        roster::Duty::Off => Duty::Off,
        roster::Duty::On { since, until } => Duty::On { since, until },
        roster::Duty::Break { until, .. } => Duty::Break { until },
    }
}
