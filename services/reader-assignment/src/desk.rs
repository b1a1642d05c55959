//! What every call and every run works with.

use std::{collections::BTreeMap, sync::Arc};

use isocenter_blobs::Blobs;
use isocenter_domain::{
    id::{ReaderId, StudyUid, TenantId},
    key::{CaseKey, HoldingKey, ReadKey, StudyKey},
    record::{
        case::Case,
        read::{Holding, Read, ReadEffect, ReadEvent, ReadKind},
        study::Study,
    },
};
use isocenter_runtime::task::Tasks;
use isocenter_store::table::{Cause, Change, Stored, TableError, Tables};
use tokio::sync::Semaphore;

use crate::{
    board::Board,
    config::Config,
    error::Error,
    leader::Leadership,
    metrics::Meters,
    show,
    view::{View, case_key},
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

    /// One event of a read together with what it does to its holder's hands: the pair is never changed apart.
    pub fn apply(
        &self,
        change: &mut Change<'_>,
        read: &Stored<Read>,
        hands: &Hands,
        event: ReadEvent,
    ) -> Result<Vec<ReadEffect>, Error> {
        let name = event.name();
        let (next, effects) = read.record.clone().transition(event, change.now())?;
        let mut holding = hands.holding();
        for effect in &effects {
            holding = holding.apply(&read.key.read, effect)?;
        }
        change.update(read, &next, name);
        hands.put(change, &holding, name, &read.head.trace);
        Ok(effects)
    }

    /// Takes an offered or open read from its holder, who did not ask for it.
    pub async fn take_back(&self, read: &Stored<Read>, event: ReadEvent, cause: Cause) -> Result<(), Error> {
        let Some(holder) = read.record.holder() else { return Err(Error::NOT_HELD) };
        let hands = self.hands(&read.key.tenant, holder).await?;
        let mut change = self.tables.change(cause);
        self.apply(&mut change, read, &hands, event)?;
        change.commit().await?;
        Ok(())
    }

    /// Adds a read of a case to a change that rests on the case.
    pub fn create(&self, change: &mut Change<'_>, case: &Stored<Case>, key: &ReadKey, read: &Read) {
        let event = match read.kind {
            ReadKind::Primary => "created",
            ReadKind::Discrepancy { .. } => "discrepancy",
        };
        change.create(key, read, event, &case.head.trace);
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

    /// The item of a read whose record and case were loaded.
    pub fn item(&self, read: &Stored<Read>, case: &Case) -> isocenter_assign::Item {
        self.view.item(&read.key, &read.record, case)
    }
}
