//! What blobs and the records hold, compared with the live records and with each other.

use std::collections::{BTreeMap, BTreeSet};

use futures::StreamExt as _;
use isocenter_blobs::path;
use isocenter_domain::{
    document::Manifest,
    id::{CaseId, ReadId, StudyUid, TenantId},
    key::{ReportKey, StudyKey, text},
    record::study::Study,
    refs::Digest,
};
use isocenter_store::Key;
use isocenter_wire::{document::Stored as _, record as wire};

use super::{Compared, Comparer, LIMIT, Live, Subject};
use crate::{
    Error,
    reconcile::load::waits,
    records::query::{ReportRow, StudyRow},
};

impl Comparer {
    pub(super) async fn compare_kept(
        &self,
        tenant: &TenantId,
        live: &Live,
        compared: &mut Compared,
    ) -> Result<(), Error> {
        let rows = self.records.studies(tenant).await?;
        let known: BTreeSet<&str> = rows.iter().map(|row| row.study.as_str()).collect();
        for row in &rows {
            let Ok(study) = row.study.parse::<StudyUid>() else { continue };
            let key = StudyKey { tenant: tenant.clone(), study };
            self.study(&key, row, live, compared).await?;
            self.instances(&key, row.revision, live, compared).await?;
        }
        // Complete, and not projected yet: their images are looked at all the same.
        for study in live.studies.values().filter(|study| !known.contains(study.key.study.as_str())) {
            self.instances(&study.key, study.record.revision, live, compared).await?;
        }
        self.manifests(tenant, live, &known, compared).await?;
        self.intakes(live, compared).await?;
        self.bodies(tenant, live, compared).await?;
        self.projections(tenant, live, compared).await
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
            if !waits(&self.tables, &text(key)).await? && !self.records.applied_one(&text(key)).await?.1 {
                compared.differs(Subject::Study, text(key), "a live record, or closed", "no record");
            }
        } else if !self.has_head(key).await? {
            compared.differs(Subject::Study, text(key), "a head in blobs", "none");
        }
        Ok(())
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
                compared.differs(Subject::Instance, path.as_str(), "a manifest", e.to_string());
                return Ok(());
            }
            Err(isocenter_blobs::Error::NotFound(_)) => {
                compared.differs(Subject::Instance, path.as_str(), "a manifest", "none");
                return Ok(());
            }
            Err(isocenter_blobs::Error::Corrupt(_)) => {
                compared.differs(Subject::Instance, path.as_str(), "a manifest", "other content");
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
                    compared.differs(Subject::Instance, path.as_str(), expected, format!("{size} bytes"));
                }
                None => compared.differs(Subject::Instance, path.as_str(), expected, "nothing"),
            }
        }
        Ok(())
    }

    /// Every manifest in blobs is of a study that the store or the records know.
    async fn manifests(
        &self,
        tenant: &TenantId,
        live: &Live,
        known: &BTreeSet<&str>,
        compared: &mut Compared,
    ) -> Result<(), Error> {
        let Some(prefix) = path::all_of("manifest", tenant) else { return Ok(()) };
        let mut orphans = BTreeSet::new();
        let mut entries = self.blobs.list(&prefix);
        while let Some(entry) = entries.next().await {
            let path = entry?.path;
            let Some(study) = path.as_str().split('/').nth(2).and_then(|uid| uid.parse().ok()) else {
                continue;
            };
            let study: StudyUid = study;
            if !known.contains(study.as_str()) && !live.studies.contains_key(&study) && orphans.len() < LIMIT
            {
                orphans.insert(study);
            }
        }
        for study in orphans {
            let key = StudyKey { tenant: tenant.clone(), study };
            // A manifest is written before its study is complete, and a closed study may be on its way to the records.
            if self.tables.load::<Study>(&key).await?.is_none() && !waits(&self.tables, &text(&key)).await? {
                compared.differs(Subject::Study, text(&key), "a live record, or closed", "a manifest alone");
            }
        }
        Ok(())
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
            if !known && (!self.has_head(&key).await? || intake.head.updated_at <= settled) {
                compared.differs(Subject::Study, text(&key), "a live record", "an intake alone");
            }
        }
        Ok(())
    }

    /// Every report has its body, live or closed.
    async fn bodies(&self, tenant: &TenantId, live: &Live, compared: &mut Compared) -> Result<(), Error> {
        let closed = self.records.reports(tenant).await?;
        let closed = closed.iter().filter_map(|row| body_of(tenant, row));
        let mut bodies: BTreeMap<ReportKey, Digest> = closed.collect();
        bodies.extend(live.reports.values().map(|report| (report.key.clone(), report.record.body)));
        for (key, body) in bodies {
            compared.saw(Subject::Report);
            let path = path::report(tenant, &key.read, &body);
            if !self.blobs.exists(&path).await? {
                compared.differs(Subject::Report, text(&key), "its body in blobs", "none");
            }
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
        let applied = self.records.applied(tenant).await?;
        let counters = live.counters();
        let mut doubtful = BTreeSet::new();
        let mut seen = BTreeSet::new();
        for (key, seq, gone) in &applied {
            compared.saw(Subject::Projection);
            seen.insert(key.as_str());
            if counters.get(key) != (!gone).then_some(seq) {
                doubtful.insert(key.as_str());
            }
        }
        for key in counters.keys().filter(|key| !seen.contains(key.as_str())) {
            compared.saw(Subject::Projection);
            doubtful.insert(key);
        }
        for key in doubtful.into_iter().take(LIMIT) {
            self.projection(key, compared).await?;
        }
        for row in self.records.studies(tenant).await? {
            if row.manifest_revision < row.revision {
                let key = row.study.parse().map(|study| StudyKey { tenant: tenant.clone(), study });
                let Ok(key) = key else { continue };
                let expected = format!("the images of revision {}", row.revision);
                let found = format!("those of revision {}", row.manifest_revision);
                compared.differs(Subject::Projection, text(&key), expected, found);
            }
        }
        Ok(())
    }

    /// Looks at one record again, now: what differed may have been on its way.
    async fn projection(&self, key: &str, compared: &mut Compared) -> Result<(), Error> {
        let stored = self.tables.kv().get(&Key::new(key)?).await?;
        if waits(&self.tables, key).await? {
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
                );
            }
            None if !gone => compared.differs(Subject::Projection, key, "gone", format!("at {seq}")),
            Some(_) | None => {}
        }
        Ok(())
    }
}

fn body_of(tenant: &TenantId, row: &ReportRow) -> Option<(ReportKey, Digest)> {
    let read = ReadId { case: CaseId::new(&row.case).ok()?, n: row.n };
    Some((ReportKey { tenant: tenant.clone(), read, version: row.version }, row.body.parse().ok()?))
}
