//! What every call and every run works with.

use std::{collections::BTreeMap, sync::Arc};

use isocenter_blobs::Blobs;
use isocenter_domain::{
    id::{ReadId, ReaderId, StudyUid, TenantId},
    key::{CaseKey, HoldingKey, ReadKey, StudyKey},
    record::{
        case::Case,
        read::{Holding, Read, ReadEffect, ReadEvent, ReadKind},
        registry::{Entry, Reader},
        study::Study,
    },
};
use isocenter_runtime::task::Tasks;
use isocenter_store::table::{Cause, Change, Stored, TableError, Tables, owner_range};
use tokio::sync::Semaphore;

use crate::{
    board::Board,
    config::Config,
    error::Error,
    leader::Leadership,
    metrics::Meters,
    show,
    tally::Tally,
    view::{View, case_key, reader_key},
};

/// How often a change that somebody else was first with, or whose outcome is not known, is decided again.
pub(crate) const ATTEMPTS: u32 = 5;

/// The desk at which reads are handed out and taken back.
#[derive(Debug)]
pub(crate) struct Desk {
    pub config: Config,
    pub tables: Tables,
    pub blobs: Blobs,
    pub view: View,
    pub board: Arc<Board>,
    /// Offers that are being committed.
    pub flights: Arc<Semaphore>,
    pub leadership: Leadership,
    pub meters: Meters,
    pub tally: Tally,
    pub tasks: Tasks,
}

/// What a reader has in hand, in the store; none before the first offer.
#[derive(Debug)]
pub(crate) struct Hands {
    pub key: HoldingKey,
    pub stored: Option<Stored<Holding>>,
}

impl Hands {
    /// What they hold.
    pub fn holding(&self) -> Holding {
        self.stored.as_ref().map(|stored| stored.record.clone()).unwrap_or_default()
    }

    /// Puts them, on condition that they are as they were loaded.
    pub fn put(&self, change: &mut Change<'_>, holding: &Holding, event: &str, trace: &str) {
        match &self.stored {
            Some(stored) => change.update(stored, holding, event),
            None => change.create(&self.key, holding, event, trace),
        }
    }
}

impl Desk {
    /// What a reader has in hand, now.
    pub async fn hands(&self, tenant: &TenantId, reader: &ReaderId) -> Result<Hands, Error> {
        let key = HoldingKey { tenant: tenant.clone(), reader: reader.clone() };
        let stored = self.tables.load(&key).await?;
        Ok(Hands { key, stored })
    }

    /// The read, now.
    pub async fn read(&self, key: &ReadKey) -> Result<Stored<Read>, Error> {
        self.tables.load(key).await?.ok_or(Error::NotFound("read"))
    }

    /// The case of a read, now.
    pub async fn case(&self, key: &ReadKey) -> Result<Stored<Case>, Error> {
        self.tables.load(&case_key(key)).await?.ok_or(Error::NotFound("case"))
    }

    /// The member studies of a case, now; those that exist.
    pub async fn studies(&self, tenant: &TenantId, case: &Case) -> Result<Vec<Stored<Study>>, TableError> {
        let load = |uid: &StudyUid| {
            let key = StudyKey { tenant: tenant.clone(), study: uid.clone() };
            async move { self.tables.load::<Study>(&key).await }
        };
        let loaded = futures::future::try_join_all(case.members.iter().map(load)).await?;
        Ok(loaded.into_iter().flatten().collect())
    }

    /// One event of a read together with what it does to the hands of those whom it concerns: they are never changed
    /// apart. `hands` are those of everybody whom the event's effects name.
    pub fn apply(
        &self,
        change: &mut Change<'_>,
        read: &Stored<Read>,
        hands: &[&Hands],
        event: ReadEvent,
    ) -> Result<Vec<ReadEffect>, Error> {
        let name = event.name();
        let (next, effects) = read.record.clone().transition(event, change.now())?;
        change.update(read, &next, name);
        for hand in hands {
            let mut holding = hand.holding();
            for effect in effects.iter().filter(|effect| effect.reader() == Some(&hand.key.reader)) {
                holding = holding.apply(&read.key.read, effect)?;
            }
            hand.put(change, &holding, name, &read.head.trace);
        }
        let of = |reader: &ReaderId| hands.iter().any(|hand| hand.key.reader == *reader);
        let all = effects.iter().filter_map(ReadEffect::reader).all(of);
        // Hands that were not loaded would stay bound to a read, or free of one.
        if all { Ok(effects) } else { Err(TableError::Conflict.into()) }
    }

    /// Takes an offered or open read from its holder, who did not ask for it.
    pub async fn take_back(&self, read: &Stored<Read>, event: ReadEvent, cause: Cause) -> Result<(), Error> {
        let Some(holder) = read.record.holder() else { return Err(Error::NOT_HELD) };
        let hands = self.hands(&read.key.tenant, holder).await?;
        let mut change = self.tables.change(cause);
        self.apply(&mut change, read, &[&hands], event)?;
        change.commit().await?;
        Ok(())
    }

    /// Adds a read of a case to a change that rests on the case.
    pub fn create(&self, change: &mut Change<'_>, case: &Stored<Case>, n: u32, read: &Read) {
        let id = ReadId { case: case.key.case.clone(), n };
        let key = ReadKey { tenant: case.key.tenant.clone(), read: id };
        let event = match read.kind {
            ReadKind::Primary => "created",
            ReadKind::Blinded { .. }
            | ReadKind::Arbitration { .. }
            | ReadKind::Discrepancy { .. }
            | ReadKind::SecondOpinion { .. }
            | ReadKind::Consultation
            | ReadKind::Review { .. } => read.kind.name(),
        };
        change.create(&key, read, event, &case.head.trace);
    }

    /// The reads of a case by number, now.
    pub async fn reads(&self, case: &CaseKey) -> Result<BTreeMap<u32, Stored<Read>>, Error> {
        let id = case.case.as_str();
        let (reads, _) = self.tables.list::<Read>(&owner_range::<ReadKey>(&case.tenant, id, &[id])).await?;
        Ok(reads.into_iter().map(|read| (read.key.read.n, read)).collect())
    }

    /// What the registry says of a reader, now.
    pub async fn registered(
        &self,
        tenant: &TenantId,
        reader: &ReaderId,
    ) -> Result<(Stored<Entry>, Reader), Error> {
        let entry = self.tables.load::<Entry>(&reader_key(tenant, reader)).await?;
        let Some(entry) = entry else { return Err(Error::NOT_REGISTERED) };
        let Entry::Reader(registered) = &entry.record else { return Err(Error::NOT_REGISTERED) };
        let registered = registered.clone();
        Ok((entry, registered))
    }

    /// The read as callers see it, from the store.
    pub async fn shown(&self, key: &ReadKey) -> Result<isocenter_wire::v1::Read, Error> {
        let (read, case) = tokio::try_join!(self.read(key), self.case(key))?;
        Ok(self.show(&read, &case.key, &case.record))
    }

    /// The read as callers see it. The studies of one that nobody has open are those of the mirror.
    pub fn show(&self, read: &Stored<Read>, case: &CaseKey, record: &Case) -> isocenter_wire::v1::Read {
        let studies = self.view.studies_of(&case.tenant, record);
        let present: BTreeMap<_, _> =
            studies.iter().map(|(uid, study)| (uid.clone(), study.record.revision)).collect();
        let p = self.view.probability(&case.tenant, record);
        show::read(&read.key, &read.record, record, &present, p)
    }

    /// The item of a read whose record and case were loaded; whom the other reads of the case bar is the mirrors' word.
    pub fn item(&self, read: &Stored<Read>, case: &Case) -> isocenter_assign::Item {
        self.view.item_without_ai(&read.key, &read.record, case)
    }
}
