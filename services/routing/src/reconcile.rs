//! Decides each complete revision of each study, once.

use std::sync::Arc;

use futures::stream::BoxStream;
use isocenter_blobs::{Blobs, path};
use isocenter_domain::{
    Kind, Kinded as _,
    document::{Images, Manifest},
    id::{CaseId, JurisdictionId, SiteId, TenantId},
    key::{self, CaseKey, PlanKey, RegistryItem, RegistryKey, StudyKey},
    record::{
        case::{Case, CaseEvent},
        plan::Plan,
        registry::Entry,
        study::{Study, StudyState},
    },
};
use isocenter_policy::GroupBy;
use isocenter_reconcile::{Failed, KeySource, Outcome, Reconciler};
use isocenter_runtime::{secret::Secret, telemetry::trace};
use isocenter_store::table::{Cause, Mirror, Mirrors, Stored, Tables};
use isocenter_wire::{document::Stored as _, error::Undecodable};
use tracing::Instrument as _;

use crate::{
    Error,
    metrics::Metrics,
    plan::{self, Planned, Subject},
    policies::Policies,
};

/// Who decides, in events.
const ACTOR: &str = "routing";

pub(crate) struct Studies {
    pub tables: Tables,
    pub mirrors: StudyMirrors,
    pub blobs: Blobs,
    pub secret: Secret,
    pub policies: Arc<Policies>,
    pub metrics: Metrics,
}

#[derive(Clone)]
pub(crate) struct StudyMirrors {
    studies: Mirror<Study>,
    plans: Mirror<Plan>,
    registry: Mirror<Entry>,
    cases: Mirror<Case>,
}

impl StudyMirrors {
    pub fn new(mirrors: &Mirrors) -> Self {
        Self { studies: mirrors.of(), plans: mirrors.of(), registry: mirrors.of(), cases: mirrors.of() }
    }

    /// The first case of the study's visit. Looks at every live case, some thousands: a study is decided once.
    fn visit(&self, study: &Stored<Study>) -> Option<CaseId> {
        let cases = self.cases.all();
        plan::visit(&study.key, &study.record, cases.iter().map(|case| (&case.key, &case.record)))
    }

    /// The jurisdiction of a site. A mirror that is a moment behind is soon enough: a site's law does not change while a
    /// study is on its way.
    fn jurisdiction(&self, tenant: &TenantId, site: &SiteId) -> Option<JurisdictionId> {
        let item = RegistryItem::Site(site.clone());
        match &self.registry.get(&RegistryKey { tenant: tenant.clone(), item })?.record {
            Entry::Site(site) => site.jurisdiction.clone(),
            Entry::Reader(_) | Entry::Pool(_) | Entry::Ai(_) | Entry::Destination(_) => None,
        }
    }

    /// Whether a decision is due as far as the mirrors know. A later change of the study wakes it again.
    fn due(&self, key: &StudyKey) -> bool {
        let Some(study) = self.studies.get(key) else { return false };
        plan::due(&study.record, self.plans.get(&plan_key(key)).as_ref().map(|plan| &plan.record))
    }
}

pub(crate) fn plan_key(key: &StudyKey) -> PlanKey {
    PlanKey { tenant: key.tenant.clone(), study: key.study.clone() }
}

pub(crate) fn case_key(key: &StudyKey) -> CaseKey {
    CaseKey { tenant: key.tenant.clone(), case: CaseId::of(&key.tenant, &key.study) }
}

#[async_trait::async_trait]
impl Reconciler for Studies {
    type Key = StudyKey;

    async fn reconcile(&self, key: &StudyKey) -> Result<Outcome, Failed> {
        if self.mirrors.due(key)
            && let Some(study) = self.tables.load::<Study>(key).await?
        {
            let span = tracing::info_span!("route", revision = study.record.revision);
            self.route(&study).instrument(trace::joined(span, &study.head.trace)).await?;
        }
        Ok(Outcome::Done)
    }
}

impl Studies {
    /// Decides on the study as it was loaded; the commit compares it, so that a decision never rests on images that are
    /// no longer the last.
    async fn route(&self, study: &Stored<Study>) -> Result<(), Error> {
        let key = &study.key;
        let plan = self.tables.load::<Plan>(&plan_key(key)).await?;
        if !plan::due(&study.record, plan.as_ref().map(|plan| &plan.record)) {
            return Ok(());
        }
        let case = self.tables.load::<Case>(&case_key(key)).await?;
        // Blobs that do not answer fail here, before a policy text that they hold would count as lost.
        let images = self.images(study).await?;
        let doubt = matches!(&study.record.state, StudyState::Complete { doubt: Some(_), .. });
        let revision = study.record.revision;
        let facts = plan::facts(&study.record, &study.record.facts, images.as_ref(), revision, doubt);
        let active = self.policies.active(&key.tenant).await?;

        let own = self.secret.reference("study", &[key.tenant.as_str(), key.study.as_str()]);
        let jurisdiction = self.mirrors.jurisdiction(&key.tenant, &study.record.site);
        let subject = Subject {
            key,
            study: &study.record,
            own,
            jurisdiction: jurisdiction.as_ref(),
            visit: match active.policy.group_by() {
                GroupBy::Study => None,
                GroupBy::Visit => self.mirrors.visit(study),
            },
            case: case.as_ref().map(|case| &case.record),
        };
        let change = self.tables.change(Cause::role(ACTOR));
        let now = change.now();
        let planned = plan::plan(&subject, &facts, &active.policy, active.digest, now)?;
        self.commit(change, study, plan.as_ref(), case.as_ref(), &planned).await?;
        // The study was last changed when this revision was complete.
        let waited = now.since(study.head.updated_at);
        self.metrics.planned(&planned.plan, &planned.decision, waited);
        tracing::debug!(revision, read = planned.case.is_some(), "study routed");
        Ok(())
    }

    async fn commit(
        &self,
        mut change: isocenter_store::table::Change<'_>,
        study: &Stored<Study>,
        plan: Option<&Stored<Plan>>,
        case: Option<&Stored<Case>>,
        planned: &Planned,
    ) -> Result<(), Error> {
        let trace = &study.head.trace;
        match plan {
            Some(older) => change.update(older, &planned.plan, "replanned"),
            None => change.create(&plan_key(&study.key), &planned.plan, "planned", trace),
        }
        change.unchanged(study);
        match (case, &planned.case) {
            (Some(older), Some(newer)) if older.record != *newer => {
                change.update(older, newer, CaseEvent::Replanned.name());
            }
            // A case that stays as it is is not written: whoever is opening or signing it is not disturbed.
            (Some(older), Some(_) | None) => change.unchanged(older),
            (None, Some(new)) => change.create(&case_key(&study.key), new, "created", trace),
            (None, None) => change.absent(&case_key(&study.key)),
        }
        change.commit().await?;
        Ok(())
    }

    /// The images of the study's last revision. `None` where its manifest is lost or damaged for good: the study is then
    /// decided by what its record says, rather than never.
    async fn images(&self, study: &Stored<Study>) -> Result<Option<Images>, Error> {
        let StudyKey { tenant, study: uid } = &study.key;
        let Some(digest) = &study.record.manifest else { return Ok(None) };
        let path = path::manifest(tenant, uid, study.record.revision);
        let why = match self.blobs.get_checked(&path, digest).await {
            Ok(bytes) => match Manifest::decode(&bytes) {
                Ok(manifest) => return Ok(Some(manifest.images)),
                Err(e @ Undecodable::FromTheFuture { .. }) => return Err(Error::Manifest(e)),
                Err(Undecodable::Damaged(why)) => why,
            },
            Err(e) if matches!(e.kind(), Kind::NotFound | Kind::DataLoss) => e.to_string(),
            Err(source) => return Err(Error::Unread { what: "manifest", source }),
        };
        self.metrics.lost_manifests.inc();
        tracing::error!(revision = study.record.revision, error = %why, "a manifest is lost; deciding without it");
        Ok(None)
    }
}

/// The studies that are to be decided on; woken by every change of a study.
pub(crate) struct StudySource(pub StudyMirrors);

#[async_trait::async_trait]
impl KeySource for StudySource {
    type Key = StudyKey;

    async fn list(&self) -> Result<Vec<StudyKey>, Failed> {
        let all = self.0.studies.all();
        Ok(all.iter().map(|study| &study.key).filter(|key| self.0.due(key)).cloned().collect())
    }

    async fn changes(&self) -> Result<BoxStream<'static, StudyKey>, Failed> {
        let StudyMirrors { studies, plans, registry, cases } = &self.0;
        tokio::join!(studies.synced(), plans.synced(), registry.synced(), cases.synced());
        Ok(studies.changes())
    }

    fn shard(&self, key: &StudyKey) -> u8 {
        key::shard_of(key)
    }
}

#[cfg(test)]
mod tests {
    use isocenter_domain::{
        Time,
        record::study::{Evidence, Facts, StudyEvent},
        refs::Digest,
    };
    use isocenter_runtime::{clock::TestClock, metrics::Metrics as Registry, task::Tasks};
    use isocenter_store::{
        embedded::{Embedded, EmbeddedOptions},
        table::TableError,
    };

    use super::*;

    async fn studies(folder: &std::path::Path) -> Studies {
        let store = Arc::new(Embedded::open(EmbeddedOptions::new(folder.join("store"))).await.unwrap());
        let clock = TestClock::new(Time(1_000)).shared();
        let secret = Secret::new([1; 32]);
        let tables = Tables::open(store, clock, "cell".parse().unwrap(), &secret).await.unwrap();
        let blobs = Blobs::open(folder.join("blobs").to_str().unwrap()).unwrap();
        let metrics = Metrics::new(&Registry::new());
        let mirrors = StudyMirrors::new(&Mirrors::new(tables.clone(), &Tasks::new()));
        let policies = Arc::new(Policies::new(tables.clone(), blobs.clone(), metrics.clone()));
        Studies { tables, mirrors, blobs, secret, policies, metrics }
    }

    /// The next revision of the study, whose manifest is lost.
    async fn complete(studies: &Studies, key: &StudyKey) -> Stored<Study> {
        let stored = studies.tables.load::<Study>(key).await.unwrap();
        let mut change = studies.tables.change(Cause::role("ingestion"));
        let now = change.now();
        let completed = StudyEvent::Completed {
            evidence: Evidence::QuietPeriod,
            doubt: None,
            manifest: Digest::of(b"lost"),
            facts: Facts { images: 1, instances: 1, ..Facts::default() },
        };
        let study = match &stored {
            Some(stored) => stored.record.clone(),
            None => Study::receiving("north".parse().unwrap(), "CT1".parse().unwrap(), now),
        };
        let study = study.transition(StudyEvent::Received, now).unwrap().0;
        let study = study.transition(completed, now).unwrap().0;
        match &stored {
            Some(stored) => change.update(stored, &study, "completed"),
            None => change.create(key, &study, "completed", ""),
        }
        change.commit().await.unwrap();
        studies.tables.load(key).await.unwrap().unwrap()
    }

    #[tokio::test]
    async fn a_decision_on_images_that_are_no_longer_the_last_is_not_committed() {
        let folder = tempfile::tempdir().unwrap();
        let studies = studies(folder.path()).await;
        let key = StudyKey { tenant: "t".parse().unwrap(), study: "1.2.3".parse().unwrap() };
        let stale = complete(&studies, &key).await;
        let fresh = complete(&studies, &key).await;
        let refused = studies.route(&stale).await;
        assert!(matches!(refused, Err(Error::Table(TableError::Conflict))), "{refused:?}");
        assert_eq!(studies.tables.load::<Plan>(&plan_key(&key)).await.unwrap(), None);
        assert_eq!(studies.tables.load::<Case>(&case_key(&key)).await.unwrap(), None);

        studies.route(&fresh).await.unwrap();
        let plan = studies.tables.load::<Plan>(&plan_key(&key)).await.unwrap().unwrap();
        assert_eq!(plan.record.revision, 2);
        // Once more changes nothing, whichever revision it believes in.
        studies.route(&fresh).await.unwrap();
        studies.route(&stale).await.unwrap();
        assert_eq!(studies.tables.load::<Plan>(&plan_key(&key)).await.unwrap(), Some(plan));
    }
}
