//! What the mirrors know: caches that may be a moment old. Nothing is written on their word alone.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use futures::{StreamExt as _, stream, stream::BoxStream};
use isocenter_assign::{Holding as Held, Item, ReaderProfile, overflow};
use isocenter_domain::{
    Time,
    id::{CaseId, PoolId, ReaderId, StudyUid, TenantId},
    key::{
        AiTaskKey, CaseKey, HoldingKey, PlanKey, ReadKey, RecordKey as _, RegistryItem, RegistryKey, StudyKey,
    },
    record::{
        ai_task::AiTask,
        case::Case,
        plan::Plan,
        read::{Holding, Read},
        registry::Entry,
        study::Study,
    },
};
use isocenter_runtime::clock::Clock;
use isocenter_store::table::{Mirror, Mirrors, Stored, owner_range};

use crate::{
    ledger::Ledger,
    outlook::Outlook,
    people::People,
    plan::{
        apart::{self, Barred},
        item,
    },
    presence::Presence,
};

/// The reads of a case, by number.
pub(crate) type ReadsOf = BTreeMap<u32, Arc<Stored<Read>>>;

/// The mirrors that this role reads.
#[derive(Clone, Debug)]
pub(crate) struct View {
    pub studies: Mirror<Study>,
    pub plans: Mirror<Plan>,
    pub cases: Mirror<Case>,
    pub ai: Mirror<AiTask>,
    pub reads: Mirror<Read>,
    pub holdings: Mirror<Holding>,
    pub registry: Mirror<Entry>,
    pub presence: Presence,
    pub people: People,
    pub ledger: Arc<Ledger>,
    pub outlook: Arc<Outlook>,
}

impl View {
    pub fn new(mirrors: &Mirrors, presence: Presence, clock: Arc<dyn Clock>) -> Self {
        Self {
            studies: mirrors.of(),
            plans: mirrors.of(),
            cases: mirrors.of(),
            ai: mirrors.of(),
            reads: mirrors.of(),
            holdings: mirrors.of(),
            registry: mirrors.of(),
            presence,
            people: People::new(clock),
            ledger: Arc::default(),
            outlook: Arc::default(),
        }
    }

    /// Waits until every mirror has its first list.
    pub async fn synced(&self) {
        self.studies.synced().await;
        self.plans.synced().await;
        self.cases.synced().await;
        self.ai.synced().await;
        self.reads.synced().await;
        self.holdings.synced().await;
        self.registry.synced().await;
        self.presence.synced().await;
    }

    /// The case that a study belongs to.
    fn case_of(&self, tenant: &TenantId, study: &StudyUid) -> Option<CaseKey> {
        let plan = self.plans.get(&PlanKey { tenant: tenant.clone(), study: study.clone() })?;
        plan.record.case().map(|case| CaseKey { tenant: tenant.clone(), case: case.clone() })
    }

    /// The reads of a case, by number.
    pub fn reads_of(&self, case: &CaseKey) -> ReadsOf {
        let id = case.case.as_str();
        let reads = self.reads.of(&owner_range::<ReadKey>(&case.tenant, id, &[id]));
        reads.into_iter().map(|read| (read.key.read.n, read)).collect()
    }

    /// The member studies of a case, those that exist.
    pub fn studies_of(&self, tenant: &TenantId, case: &Case) -> BTreeMap<StudyUid, Arc<Stored<Study>>> {
        let found = case.members.iter().filter_map(|uid| {
            let key = StudyKey { tenant: tenant.clone(), study: uid.clone() };
            self.studies.get(&key).map(|study| (uid.clone(), study))
        });
        found.collect()
    }

    /// The highest probability that an answer in time gave for a member study at its present revision. None: no answer.
    pub fn probability(&self, tenant: &TenantId, case: &Case) -> Option<f64> {
        let studies = self.studies_of(tenant, case);
        let tasks = studies.iter().flat_map(|(uid, study)| {
            let tasks = self.ai.of(&owner_range::<AiTaskKey>(tenant, uid.as_str(), &[uid.as_str()]));
            tasks.into_iter().filter(|task| task.key.revision == study.record.revision).collect::<Vec<_>>()
        });
        tasks.filter_map(|task| task.record.probability()).reduce(f64::max)
    }

    /// The read as the queue sees it.
    pub fn item(&self, key: &ReadKey, read: &Read, case: &Case) -> Item {
        self.placed(key, read, case, &self.reads_of(&case_key(key))).0
    }

    /// The read as the queue sees it among the reads of its case, and when its age alone opens it to another pool.
    pub fn placed(&self, key: &ReadKey, read: &Read, case: &Case, reads: &ReadsOf) -> (Item, Option<Time>) {
        let tenant = &key.tenant;
        // What AI saw says nothing of how urgent a peer's review is.
        let p = read.kind.is_clinical().then(|| self.probability(tenant, case)).flatten();
        let mut item = self.barring(key, read, case, p, reads);
        item.prefers = case.linked.as_ref().and_then(|linked| self.reader_of(tenant, linked));
        self.opened(tenant, case, item)
    }

    /// The item for the readers of every pool that it is open to now, and when its age alone opens it to another.
    fn opened(&self, tenant: &TenantId, case: &Case, mut item: Item) -> (Item, Option<Time>) {
        let rules = self.people.overflows(tenant);
        if rules.is_empty() {
            return (item, None);
        }
        let predicted = |pool: &PoolId| self.outlook.wait(tenant, &item.class, pool);
        let age = (&item.urgency, item.complete_at);
        let opened = overflow::pools(&case.pools, &rules, age, predicted, self.people.now());
        item.needs = item.needs.for_pools(opened.pools);
        (item, opened.next)
    }

    /// The same, for what asks who may have it and not where it stands.
    pub fn item_without_ai(&self, key: &ReadKey, read: &Read, case: &Case) -> Item {
        let item = self.barring(key, read, case, None, &self.reads_of(&case_key(key)));
        self.opened(&key.tenant, case, item).0
    }

    fn barring(&self, key: &ReadKey, read: &Read, case: &Case, p: Option<f64>, reads: &ReadsOf) -> Item {
        let mut item = item::item(&key.read, read, case, p);
        item.work = self.ledger.work(&key.tenant, &item.needs);
        if let Some(patient) = case.patient {
            item.excluded.extend(self.people.conflicted(&key.tenant, patient));
        }
        item.excluded.extend(item::exclusions(barred(key, read, reads)));
        item
    }

    /// Who has, or last had, a read of a case in hand.
    fn reader_of(&self, tenant: &TenantId, case: &CaseId) -> Option<ReaderId> {
        let reads = self.reads_of(&CaseKey { tenant: tenant.clone(), case: case.clone() });
        let read = &reads.values().next()?.record;
        let concluded = read.concluded().map(|(reader, ..)| reader);
        concluded.or_else(|| read.holder()).cloned()
    }

    /// Who may not have a read, and why, by what the mirrors know of the other reads of its case.
    pub fn barred(&self, key: &ReadKey, read: &Read) -> BTreeMap<ReaderId, Barred> {
        barred(key, read, &self.reads_of(&case_key(key)))
    }

    /// A reader's profile with presence and hands as the mirrors have them; `None` where the registry has none.
    pub fn profile(&self, tenant: &TenantId, reader: &ReaderId) -> Option<ReaderProfile> {
        let entry = self.registry.get(&reader_key(tenant, reader))?;
        self.filled(&entry)
    }

    /// The profiles of every registered reader of a tenant.
    pub fn profiles(&self, tenant: &TenantId) -> Vec<ReaderProfile> {
        let entries = self.registry.all();
        let of_tenant = entries.iter().filter(|entry| entry.key.tenant == *tenant);
        of_tenant.filter_map(|entry| self.filled(entry)).collect()
    }

    /// How long a reader will work from a time on: by the roster, or, without one, whoever is present now.
    pub fn works(&self, tenant: &TenantId, reader: &ReaderProfile, from: Time, lasts: Duration) -> Duration {
        let rostered = self.people.works(&reader_key(tenant, &reader.id), from, lasts);
        rostered.unwrap_or(if reader.present { lasts } else { Duration::ZERO })
    }

    fn filled(&self, entry: &Stored<Entry>) -> Option<ReaderProfile> {
        let profile = self.people.of(entry, &self.ledger)?;
        let (tenant, reader) = (&entry.key.tenant, &profile.id);
        let sign = self.presence.of(tenant, reader);
        let holding = self.holdings.get(&HoldingKey { tenant: tenant.clone(), reader: reader.clone() });
        let holding = holding.map(|h| h.record.clone()).unwrap_or_default();
        Some(ReaderProfile {
            present: sign.is_some(),
            accepting: sign.is_some_and(|sign| sign.accepting),
            holding: Held {
                offered: u32::from(holding.offered.is_some()),
                open: u32::from(holding.open.is_some()),
                suspended: u32::try_from(holding.suspended.len()).unwrap_or(u32::MAX),
            },
            ..profile
        })
    }

    /// The cases that something changed about, from now on: the case, a study, a read, an AI answer, the presence of a
    /// reader who has an offer. Ends when changes may have been missed. Call it once the mirrors are synced.
    pub fn changes(&self) -> BoxStream<'static, CaseKey> {
        let (ours, theirs, present) = (self.clone(), self.clone(), self.clone());
        let studies = self.studies.changes();
        let studies =
            studies.filter_map(move |key| std::future::ready(ours.case_of(&key.tenant, &key.study)));
        let ai = self.ai.changes();
        let ai = ai.filter_map(move |key| std::future::ready(theirs.case_of(&key.tenant, &key.study)));
        let reads = self.reads.changes().map(|key| CaseKey { tenant: key.tenant, case: key.read.case });
        let readers = self.presence.changes();
        let readers = readers.filter_map(move |key| std::future::ready(present.offered_to(&key)));
        let all =
            [self.cases.changes(), studies.boxed(), ai.boxed(), reads.boxed(), readers.boxed()].map(ending);
        // One that ends may have missed something, so that all of them end.
        stream::select_all(all)
            .take_while(|key| std::future::ready(key.is_some()))
            .filter_map(std::future::ready)
            .boxed()
    }

    fn offered_to(&self, reader: &HoldingKey) -> Option<CaseKey> {
        let offered = self.holdings.get(reader)?.record.offered.clone()?;
        Some(CaseKey { tenant: reader.tenant.clone(), case: offered.case })
    }
}

/// Who may not have a read, and why, by the other reads of its case.
fn barred(key: &ReadKey, read: &Read, others: &ReadsOf) -> BTreeMap<ReaderId, Barred> {
    let mut reads: BTreeMap<u32, &Read> = others.iter().map(|(n, other)| (*n, &other.record)).collect();
    reads.insert(key.read.n, read);
    apart::barred(key.read.n, &reads)
}

/// The same stream, saying where it ends.
fn ending(keys: BoxStream<'static, CaseKey>) -> BoxStream<'static, Option<CaseKey>> {
    keys.map(Some).chain(stream::once(std::future::ready(None))).boxed()
}

/// The registry's key of a reader.
pub(crate) fn reader_key(tenant: &TenantId, reader: &ReaderId) -> RegistryKey {
    RegistryKey { tenant: tenant.clone(), item: RegistryItem::Reader(reader.clone()) }
}

/// The case that a read is about.
pub(crate) fn case_key(read: &ReadKey) -> CaseKey {
    CaseKey { tenant: read.tenant().clone(), case: read.read.case.clone() }
}
