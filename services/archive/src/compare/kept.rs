//! What blobs and the records hold, compared with the live records and with each other.

use std::collections::{BTreeMap, BTreeSet};

use futures::StreamExt as _;
use isocenter_blobs::{BlobPath, path};
use isocenter_domain::{
    document::Manifest,
    id::{CaseId, ReadId, StudyUid, TenantId},
    key::{CaseKey, IntakeKey, ReportKey, StudyKey, text},
    record::study::Study,
    refs::Digest,
};
use isocenter_store::{Key, Page, Range, table::owner_range};
use isocenter_wire::{document::Stored as _, record as wire};

use super::{Compared, Comparer, Depth, Live, Remedy, Subject};
use crate::{
    Error,
    item::About,
    reconcile::{
        drain::JOURNALED,
        load::{unapplied, waits},
    },
    records::query::{ReportRow, StudyRow},
};

/// What helps where an object of ours is gone.
pub(super) const RESTORE: Remedy = Remedy::Person("restore the object from a backup of blobs");

/// What helps where an image is gone.
const RESEND: Remedy =
    Remedy::Person("restore the object from a backup of blobs, or have the study sent again");

/// Rows read at a time.
const PAGE: usize = 500;

impl Comparer {
    /// Memory: a page of rows, one manifest, the names of one study's instances, and the differences.
    pub(super) async fn compare_kept(
        &self,
        tenant: &TenantId,
        live: &Live,
        depth: Depth,
        compared: &mut Compared,
    ) -> Result<(), Error> {
        let mut seen = BTreeSet::new();
        let mut after = String::new();
        loop {
            let rows = self.records.studies(tenant, &after, PAGE).await?;
            for row in &rows {
                after.clone_from(&row.study);
                let Ok(study) = row.study.parse::<StudyUid>() else { continue };
                let key = StudyKey { tenant: tenant.clone(), study };
                if live.studies.contains_key(&key.study) {
                    seen.insert(key.study.clone());
                }
                self.study(&key, row, live, compared).await?;
                indexed(&key, row, compared);
                self.images(&key, row, live, depth, compared).await?;
            }
            if rows.len() < PAGE {
                break;
            }
        }
        // Complete, and not projected yet: their images are looked at all the same.
        for study in live.studies.values().filter(|study| !seen.contains(&study.key.study)) {
            self.instances(&study.key, study.record.revision, live, compared).await?;
        }
        self.listed(tenant, live, compared).await?;
        if depth == Depth::Everything {
            self.late(tenant, live, compared).await?;
        }
        self.intakes(live, compared).await?;
        self.bodies(tenant, live, compared).await?;
        self.owed(compared).await?;
        self.projections(tenant, live, compared).await
    }

    /// The images of one study of the records, unless they were found whole before and only what is new is asked for.
    async fn images(
        &self,
        key: &StudyKey,
        row: &StudyRow,
        live: &Live,
        depth: Depth,
        compared: &mut Compared,
    ) -> Result<(), Error> {
        let settled = row.closed && !live.studies.contains_key(&key.study);
        if settled && depth == Depth::Changed && self.records.verified(key).await? >= row.revision {
            return Ok(());
        }
        let before = compared.total;
        self.instances(key, row.revision, live, compared).await?;
        if settled && compared.total == before {
            self.records.set_verified(key, row.revision, self.tables.clock().now()).await?;
        }
        Ok(())
    }

    /// Every study of the records is live, or closed with a head.
    async fn study(
        &self,
        key: &StudyKey,
        row: &StudyRow,
        live: &Live,
        compared: &mut Compared,
    ) -> Result<(), Error> {
        compared.saw(Subject::Study);
        if live.studies.contains_key(&key.study) || self.tables.load::<Study>(key).await?.is_some() {
            return Ok(());
        }
        if !row.closed {
            // Its last event may still be on its way.
            if !self.on_its_way(&text(key)).await? && !self.records.applied_one(&text(key)).await?.1 {
                let remedy = if self.has_head(key).await? {
                    Remedy::Project
                } else {
                    Remedy::Person("the store has lost it: restore the store")
                };
                compared.differs(Subject::Study, text(key), "a live record, or closed", "no record", remedy);
            }
        } else if !self.has_head(key).await? {
            let remedy = Remedy::Person("restore the object from a backup of blobs");
            compared.differs(Subject::Study, text(key), "a head in blobs", "none", remedy);
        }
        Ok(())
    }

    /// Whether something about this record is on its way to the records: in the outbox, or journaled and not applied.
    pub(super) async fn on_its_way(&self, record: &str) -> Result<bool, Error> {
        if waits(&self.tables, record).await? || unapplied(&self.tables, record).await? {
            return Ok(true);
        }
        // The event of what was closed together stands for each.
        let about = About::key(record);
        let Ok(tenant) = about.tenant.parse::<TenantId>() else { return Ok(false) };
        let with = match (about.study, about.case) {
            (Some(study), _) => text(&StudyKey { tenant, study }),
            (None, Some(case)) => text(&CaseKey { tenant, case }),
            (None, None) => return Ok(false),
        };
        waits(&self.tables, &with).await
    }

    /// Every journal object that waits to be applied is there.
    async fn owed(&self, compared: &mut Compared) -> Result<(), Error> {
        let range = Range::prefix(JOURNALED)?;
        let mut after = None;
        loop {
            let page = self.tables.kv().list(&range, Page { limit: PAGE, after, at: None }).await?;
            for noted in &page.items {
                let name = String::from_utf8_lossy(&noted.value).into_owned();
                if !self.blobs.exists(&BlobPath::parse(&name)?).await? {
                    let remedy = Remedy::Person("restore the object from a backup of blobs");
                    compared.differs(Subject::Projection, name, "a journal object to apply", "none", remedy);
                }
            }
            after = page.items.last().map(|kv| kv.key.clone());
            if !page.more {
                return Ok(());
            }
        }
    }

    async fn has_head(&self, key: &StudyKey) -> Result<bool, Error> {
        Ok(self.blobs.last(&path::heads_of(&key.tenant, &key.study)).await?.is_some())
    }

    /// The manifest of the last revision is there, and every instance it names, in its size.
    async fn instances(
        &self,
        key: &StudyKey,
        revision: u32,
        live: &Live,
        compared: &mut Compared,
    ) -> Result<(), Error> {
        if revision == 0 {
            return Ok(());
        }
        let path = path::manifest(&key.tenant, &key.study, revision);
        let digest = live.studies.get(&key.study).filter(|study| study.record.revision == revision);
        let digest = digest.and_then(|study| study.record.manifest);
        let bytes = match &digest {
            Some(digest) => self.blobs.get_checked(&path, digest).await,
            None => self.blobs.get(&path).await,
        };
        let manifest = match bytes.map(|bytes| Manifest::decode(&bytes)) {
            Ok(Ok(manifest)) => manifest,
            Ok(Err(e)) => {
                compared.differs(Subject::Instance, path.as_str(), "a manifest", e.to_string(), RESTORE);
                return Ok(());
            }
            Err(isocenter_blobs::Error::NotFound(_)) => {
                compared.differs(Subject::Instance, path.as_str(), "a manifest", "none", RESTORE);
                return Ok(());
            }
            Err(isocenter_blobs::Error::Corrupt(_)) => {
                compared.differs(Subject::Instance, path.as_str(), "a manifest", "other content", RESTORE);
                return Ok(());
            }
            Err(e) => return Err(e.into()),
        };
        let mut held = BTreeMap::new();
        let mut entries = self.blobs.list(&path::instances_of(&key.tenant, &key.study));
        while let Some(entry) = entries.next().await {
            let entry = entry?;
            held.insert(entry.path, entry.size);
        }
        for (_, _, instance) in manifest.images.instances() {
            compared.saw(Subject::Instance);
            let path = path::instance(&key.tenant, &key.study, &instance.instance, &instance.sha256);
            let expected = format!("{} bytes", instance.size);
            match held.get(&path) {
                Some(size) if *size == instance.size => {}
                Some(size) => {
                    compared.differs(
                        Subject::Instance,
                        path.as_str(),
                        expected,
                        format!("{size} bytes"),
                        RESEND,
                    );
                }
                None => compared.differs(Subject::Instance, path.as_str(), expected, "nothing", RESEND),
            }
        }
        Ok(())
    }

    /// Every manifest in blobs, and every segment that a node has listed its instances in, is of a study that the store or
    /// the records know. A store that was put back from a snapshot may not know what was received last.
    async fn listed(&self, tenant: &TenantId, live: &Live, compared: &mut Compared) -> Result<(), Error> {
        let received: BTreeSet<_> = live.intakes.iter().map(|intake| &intake.key.study).collect();
        let mut lost = BTreeSet::new();
        for (kind, found) in [("manifest", "a manifest alone"), ("segment", "a segment alone")] {
            let Some(prefix) = path::all_of(kind, tenant) else { continue };
            let mut entries = self.blobs.list(&prefix);
            let mut last: Option<StudyUid> = None;
            while let Some(entry) = entries.next().await {
                let path = entry?.path;
                let study = path.as_str().split('/').nth(2).and_then(|uid| uid.parse::<StudyUid>().ok());
                // A study's objects follow one another.
                let Some(study) = study.filter(|study| last.as_ref() != Some(study)) else { continue };
                last = Some(study.clone());
                // What was received and has no study is told of its intake.
                if live.studies.contains_key(&study) || received.contains(&study) || lost.contains(&study) {
                    continue;
                }
                let key = StudyKey { tenant: tenant.clone(), study };
                if self.records.has_study(&key).await? || self.begins(&key).await? {
                    continue;
                }
                let remedy = if self.has_head(&key).await? {
                    Remedy::Project
                } else {
                    Remedy::Person(
                        "the store has lost it: restart the nodes that receive, or send the study again",
                    )
                };
                compared.differs(Subject::Study, text(&key), "a live record, or closed", found, remedy);
                lost.insert(key.study);
            }
        }
        Ok(())
    }

    /// Whether the store knows of a study by now: its objects are written before its records, and a closed one may be on its
    /// way to SQL.
    pub(super) async fn begins(&self, key: &StudyKey) -> Result<bool, Error> {
        let intakes = owner_range::<IntakeKey>(&key.tenant, key.study.as_str(), &[key.study.as_str()]);
        let page = Page { limit: 1, ..Page::default() };
        Ok(!self.tables.kv().list(&intakes, page).await?.items.is_empty()
            || self.tables.load::<Study>(key).await?.is_some()
            || self.on_its_way(&text(key)).await?)
    }

    /// Everything received is of a live study, or of a closed one that is about to be reopened.
    async fn intakes(&self, live: &Live, compared: &mut Compared) -> Result<(), Error> {
        for intake in &live.intakes {
            let key = StudyKey { tenant: intake.key.tenant.clone(), study: intake.key.study.clone() };
            if live.studies.contains_key(&key.study) {
                continue;
            }
            let settled = self.tables.clock().now().minus(self.config.settle.0);
            let known = self.tables.load::<Study>(&key).await?.is_some();
            let closed = self.has_head(&key).await?;
            if !known && (!closed || intake.head.updated_at <= settled) {
                let remedy = if closed {
                    Remedy::Reopen(key.clone())
                } else {
                    Remedy::Person(
                        "ingestion makes its record when it looks at it next; if it stays, see its log",
                    )
                };
                compared.differs(Subject::Study, text(&key), "a live record", "an intake alone", remedy);
            }
        }
        Ok(())
    }

    /// Every report has its body, live or closed.
    async fn bodies(&self, tenant: &TenantId, live: &Live, compared: &mut Compared) -> Result<(), Error> {
        let mut after: Option<ReportRow> = None;
        loop {
            let rows = self.records.reports(tenant, after.as_ref(), PAGE).await?;
            for (key, body) in rows.iter().filter_map(|row| body_of(tenant, row)) {
                if !live.reports.contains_key(&key) {
                    self.body(&key, &body, compared).await?;
                }
            }
            let whole = rows.len() < PAGE;
            after = rows.into_iter().last();
            if whole {
                break;
            }
        }
        for report in live.reports.values() {
            self.body(&report.key, &report.record.body, compared).await?;
        }
        Ok(())
    }

    async fn body(&self, key: &ReportKey, body: &Digest, compared: &mut Compared) -> Result<(), Error> {
        compared.saw(Subject::Report);
        if !self.blobs.exists(&path::report(&key.tenant, &key.read, body)).await? {
            compared.differs(Subject::Report, text(key), "its body in blobs", "none", RESTORE);
        }
        Ok(())
    }

    /// The records show every live record as it is, and no other as live.
    async fn projections(
        &self,
        tenant: &TenantId,
        live: &Live,
        compared: &mut Compared,
    ) -> Result<(), Error> {
        // What is left in the end is live and not projected at all.
        let mut counters = live.counters();
        let mut after = String::new();
        loop {
            let rows = self.records.applied(tenant, &after, PAGE).await?;
            for (key, seq, gone) in &rows {
                compared.saw(Subject::Projection);
                after.clone_from(key);
                if counters.remove(key) != (!gone).then_some(*seq) {
                    self.projection(key, compared).await?;
                }
            }
            if rows.len() < PAGE {
                break;
            }
        }
        for key in counters.keys() {
            compared.saw(Subject::Projection);
            self.projection(key, compared).await?;
        }
        Ok(())
    }

    /// Looks at one record again, now: what differed may have been on its way.
    async fn projection(&self, key: &str, compared: &mut Compared) -> Result<(), Error> {
        let stored = self.tables.kv().get(&Key::new(key)?).await?;
        if self.on_its_way(key).await? {
            return Ok(());
        }
        let (seq, gone) = self.records.applied_one(key).await?;
        let expected = match stored {
            // What cannot be understood is listed as such.
            Some(kv) => match wire::decode_head(&kv.value) {
                Ok(head) if head.level <= wire::LEVEL => Some(head.seq),
                Ok(_) | Err(_) => return Ok(()),
            },
            None => None,
        };
        match expected {
            Some(expected) if gone || expected != seq => {
                let state = if gone { "gone at" } else { "at" };
                compared.differs(
                    Subject::Projection,
                    key,
                    format!("at {expected}"),
                    format!("{state} {seq}"),
                    Remedy::Project,
                );
            }
            None if !gone => {
                compared.differs(Subject::Projection, key, "gone", format!("at {seq}"), Remedy::Project);
            }
            Some(_) | None => {}
        }
        Ok(())
    }
}

/// The images of the last revision are in the index.
fn indexed(key: &StudyKey, row: &StudyRow, compared: &mut Compared) {
    if row.manifest_revision < row.revision {
        let expected = format!("the images of revision {}", row.revision);
        let found = format!("those of revision {}", row.manifest_revision);
        let remedy = Remedy::Index(key.clone(), row.revision);
        compared.differs(Subject::Projection, text(key), expected, found, remedy);
    }
}

fn body_of(tenant: &TenantId, row: &ReportRow) -> Option<(ReportKey, Digest)> {
    let read = ReadId { case: CaseId::new(&row.case).ok()?, n: row.n };
    Some((ReportKey { tenant: tenant.clone(), read, version: row.version }, row.body.parse().ok()?))
}
