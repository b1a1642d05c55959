//! `isocenter.v1.Ingestion`: studies as they are, read from the caches.

mod release;

use std::{collections::BTreeSet, pin::Pin, sync::Arc};

use futures::{Stream, StreamExt as _, stream, stream::BoxStream};
use isocenter_domain::{
    access::Action,
    id::{StudyUid, TenantId},
    key::{CaseKey, IntakeKey, PlanKey, StudyKey},
    record::{
        case::Case,
        delivery::Delivery,
        intake::Intake,
        plan::{Plan, Reading},
        read::Read,
        study::{Doubt, Evidence, Study, StudyState},
    },
    stage::{Stage, stage},
};
use isocenter_runtime::{principal, status::status};
use isocenter_store::table::{Mirrors, Stored, gather, owner_range};
use isocenter_wire::{timestamp, v1};
use tokio_util::sync::CancellationToken;
use tonic::{Request, Response, Status};

use crate::{
    Error,
    reconcile::{Completer, evidence_name},
};

/// The page of a caller that names no size, and the longest page.
const PAGE: (usize, usize) = (100, 1000);

/// The service.
#[derive(Clone, Debug)]
pub(crate) struct Studies {
    mirrors: Mirrors,
    completer: Arc<Completer>,
    ending: CancellationToken,
}

impl Studies {
    pub(crate) fn new(mirrors: Mirrors, completer: Arc<Completer>, ending: CancellationToken) -> Self {
        Self { mirrors, completer, ending }
    }

    fn uids(&self, tenant: &TenantId) -> BTreeSet<StudyUid> {
        let all = self.mirrors.of::<Study>().all();
        all.iter().filter(|s| s.key.tenant == *tenant).map(|s| s.key.study.clone()).collect()
    }

    /// The study as the contract has it; `None` where there is none that lives.
    fn study(&self, key: &StudyKey) -> Option<v1::Study> {
        let stored = self.mirrors.of::<Study>().get(key)?;
        let records = gather(&self.mirrors, key);
        let stage = stage(&records)?;
        let intakes = self.mirrors.of::<Intake>().of(&crate::reconcile::intakes_of(key));
        let plan = records.plan.as_ref();
        let facts = stored.record.facts.clone();
        let (evidence, doubt) = evidence(&stored.record.state);
        Some(v1::Study {
            study_instance_uid: key.study.to_string(),
            site_id: stored.record.site.to_string(),
            stage: wire_stage(stage).into(),
            revision: stored.record.revision,
            modalities: facts.modalities,
            body_part: facts.body_part,
            instance_count: facts.instances,
            image_count: facts.images,
            size_bytes: facts.bytes,
            complete_at: stored.record.complete_at.map(timestamp),
            updated_at: Some(timestamp(self.updated_at(key, &stored, &intakes))),
            evidence,
            doubt,
            case_id: plan.and_then(Plan::case).map(ToString::to_string).unwrap_or_default(),
            no_read_rule: match plan.map(|plan| &plan.reading) {
                Some(Reading::None { rule }) => rule.clone(),
                Some(Reading::Case(_)) | None => String::new(),
            },
            quarantined_count: intakes.iter().map(|intake| intake.record.quarantined).sum(),
        })
    }

    /// When anything shown of the study last changed.
    fn updated_at(
        &self,
        key: &StudyKey,
        study: &Stored<Study>,
        intakes: &[std::sync::Arc<Stored<Intake>>],
    ) -> isocenter_domain::Time {
        let plan_key = PlanKey { tenant: key.tenant.clone(), study: key.study.clone() };
        let plan = self.mirrors.of::<Plan>().get(&plan_key);
        let case = plan.as_ref().and_then(|plan| plan.record.case().cloned());
        let mut times = vec![study.head.updated_at];
        times.extend(plan.map(|plan| plan.head.updated_at));
        times.extend(intakes.iter().map(|intake| intake.head.updated_at));
        if let Some(case) = case {
            let id = case.as_str();
            let reads = owner_range::<isocenter_domain::key::ReadKey>(&key.tenant, id, &[id]);
            let deliveries = owner_range::<isocenter_domain::key::DeliveryKey>(&key.tenant, id, &[id]);
            times.extend(self.mirrors.of::<Read>().of(&reads).iter().map(|r| r.head.updated_at));
            times.extend(self.mirrors.of::<Delivery>().of(&deliveries).iter().map(|d| d.head.updated_at));
        }
        times.into_iter().max().unwrap_or_default()
    }

    /// The study, or that it was closed: for a watch, to which a study that vanished is one that was closed. Nothing of a
    /// study that is not seen yet: its intake, which goes with it at its close, was seen first.
    fn seen(&self, key: &StudyKey) -> Option<v1::WatchStudiesResponse> {
        let study = match self.study(key) {
            Some(study) => study,
            None if !self.mirrors.of::<Intake>().of(&crate::reconcile::intakes_of(key)).is_empty() => {
                return None;
            }
            None => v1::Study {
                study_instance_uid: key.study.to_string(),
                stage: v1::StudyStage::Closed.into(),
                ..v1::Study::default()
            },
        };
        Some(v1::WatchStudiesResponse { study: Some(study) })
    }

    /// The studies of `tenant` about which anything changes, from now on. Ends when changes may have been missed.
    fn changes(&self, tenant: &TenantId) -> BoxStream<'static, StudyKey> {
        let mirrors = self.mirrors.clone();
        let of_case = move |case: &CaseKey| -> Vec<StudyKey> {
            let Some(stored) = mirrors.of::<Case>().get(case) else { return Vec::new() };
            let key = |study: &StudyUid| StudyKey { tenant: case.tenant.clone(), study: study.clone() };
            stored.record.members.iter().map(key).collect()
        };
        let (by_read, by_delivery, by_case) = (of_case.clone(), of_case.clone(), of_case);
        let m = &self.mirrors;
        let sources: [BoxStream<'static, Vec<StudyKey>>; 6] = [
            m.of::<Study>().changes().map(|key| vec![key]).boxed(),
            m.of::<Intake>()
                .changes()
                .map(|IntakeKey { tenant, study, .. }| vec![StudyKey { tenant, study }])
                .boxed(),
            m.of::<Plan>()
                .changes()
                .map(|PlanKey { tenant, study }| vec![StudyKey { tenant, study }])
                .boxed(),
            m.of::<Case>().changes().map(move |key| by_case(&key)).boxed(),
            m.of::<Read>()
                .changes()
                .map(move |key| by_read(&CaseKey { tenant: key.tenant, case: key.read.case }))
                .boxed(),
            m.of::<Delivery>()
                .changes()
                .map(move |key| {
                    let report = key.report;
                    by_delivery(&CaseKey { tenant: report.tenant, case: report.read.case })
                })
                .boxed(),
        ];
        let ended = || stream::once(futures::future::ready(None));
        let each = sources.map(|source| source.map(Some).chain(ended()).boxed());
        let tenant = tenant.clone();
        stream::select_all(each)
            .take_while(|keys| futures::future::ready(keys.is_some()))
            .flat_map(|keys| stream::iter(keys.unwrap_or_default()))
            .filter(move |key| futures::future::ready(key.tenant == tenant))
            .boxed()
    }

    async fn synced(&self) {
        self.mirrors.of::<Study>().synced().await;
        self.mirrors.of::<Intake>().synced().await;
        self.mirrors.of::<Plan>().synced().await;
        self.mirrors.of::<Case>().synced().await;
        self.mirrors.of::<Read>().synced().await;
        self.mirrors.of::<Delivery>().synced().await;
    }
}

/// A watch: everything, then what changes; everything again where changes may have been missed.
fn watch(studies: Studies, tenant: TenantId) -> impl Stream<Item = v1::WatchStudiesResponse> {
    stream::unfold((studies, tenant), |(studies, tenant)| async move {
        studies.synced().await;
        // First the changes, then the list: what changes between the two is in the changes.
        let changes = studies.changes(&tenant);
        let of_tenant = tenant.clone();
        let key = move |study| StudyKey { tenant: of_tenant.clone(), study };
        let all = stream::iter(studies.uids(&tenant).into_iter().map(key));
        let looking = studies.clone();
        let round = all.chain(changes).filter_map(move |key| futures::future::ready(looking.seen(&key)));
        Some((round, (studies, tenant)))
    })
    .flatten()
}

#[tonic::async_trait]
impl v1::ingestion_server::Ingestion for Studies {
    async fn get_study(&self, request: Request<v1::GetStudyRequest>) -> Result<Response<v1::Study>, Status> {
        let tenant = allowed(&request)?;
        let study = StudyUid::new(&request.get_ref().study_instance_uid)
            .map_err(|source| status(&Error::Request { field: "study_instance_uid", source }))?;
        self.synced().await;
        let found = self.study(&StudyKey { tenant, study });
        found.map(Response::new).ok_or_else(|| status(&Error::NoSuchStudy))
    }

    async fn list_studies(
        &self,
        request: Request<v1::ListStudiesRequest>,
    ) -> Result<Response<v1::ListStudiesResponse>, Status> {
        let tenant = allowed(&request)?;
        let request = request.into_inner();
        let size = page_size(request.page_size).map_err(|e| status(&e))?;
        let after = after(&request.page_token).map_err(|e| status(&e))?;
        self.synced().await;
        let mut studies = Vec::new();
        let mut more = false;
        for study in self.uids(&tenant) {
            if after.as_ref().is_some_and(|after| study <= *after) {
                continue;
            }
            let found = self.study(&StudyKey { tenant: tenant.clone(), study });
            let wanted = |s: &v1::Study| request.stage == 0 || s.stage == request.stage;
            let Some(found) = found.filter(wanted) else { continue };
            if studies.len() == size {
                more = true;
                break;
            }
            studies.push(found);
        }
        let last = studies.last().map(|study| study.study_instance_uid.clone());
        let next_page_token = last.filter(|_| more).unwrap_or_default();
        Ok(Response::new(v1::ListStudiesResponse { studies, next_page_token }))
    }

    type WatchStudiesStream = Pin<Box<dyn Stream<Item = Result<v1::WatchStudiesResponse, Status>> + Send>>;

    async fn watch_studies(
        &self,
        request: Request<v1::WatchStudiesRequest>,
    ) -> Result<Response<Self::WatchStudiesStream>, Status> {
        let tenant = allowed(&request)?;
        let ending = self.ending.clone().cancelled_owned();
        let studies = watch(self.clone(), tenant).map(Ok).take_until(ending);
        let last = stream::once(async { Err(status(&Error::Draining)) });
        Ok(Response::new(Box::pin(studies.chain(last))))
    }

    async fn release_study(
        &self,
        request: Request<v1::ReleaseStudyRequest>,
    ) -> Result<Response<v1::ReleaseStudyResponse>, Status> {
        release::study(self, request).await
    }

    async fn release_node(
        &self,
        request: Request<v1::ReleaseNodeRequest>,
    ) -> Result<Response<v1::ReleaseNodeResponse>, Status> {
        release::node(self, request).await
    }
}

/// The caller's tenant, whose studies alone it sees.
fn allowed<T>(request: &Request<T>) -> Result<TenantId, Status> {
    let tenant = principal::principal(request)?.tenant;
    principal::authorized(request, &Action::Observe, &tenant)?;
    Ok(tenant)
}

fn page_size(asked: i32) -> Result<usize, Error> {
    let (usual, most) = PAGE;
    match usize::try_from(asked) {
        Ok(0) => Ok(usual),
        Ok(n) if n <= most => Ok(n),
        Ok(_) | Err(_) => Err(Error::Bounds { field: "page_size", why: "is not within 0 to 1000" }),
    }
}

fn after(token: &str) -> Result<Option<StudyUid>, Error> {
    if token.is_empty() {
        return Ok(None);
    }
    let uid = StudyUid::new(token).map_err(|source| Error::Request { field: "page_token", source })?;
    Ok(Some(uid))
}

fn evidence(state: &StudyState) -> (String, String) {
    match state {
        StudyState::Complete { evidence, doubt } => {
            let doubt = doubt.as_ref().map(|Doubt { node, pending }| {
                let when = match evidence {
                    Evidence::Released => "when it was released",
                    Evidence::QuietPeriod | Evidence::AssemblyBound => "at the bound",
                };
                format!("node {node} had {pending} instances on their way, or an association open, {when}")
            });
            (evidence_name(*evidence).to_owned(), doubt.unwrap_or_default())
        }
        StudyState::Receiving | StudyState::Closed => (String::new(), String::new()),
    }
}

const fn wire_stage(stage: Stage) -> v1::StudyStage {
    match stage {
        Stage::Receiving => v1::StudyStage::Receiving,
        Stage::Complete => v1::StudyStage::Complete,
        Stage::Routed => v1::StudyStage::Routed,
        Stage::WaitingForReader => v1::StudyStage::WaitingForReader,
        Stage::Reading => v1::StudyStage::Reading,
        Stage::Reported => v1::StudyStage::Reported,
        Stage::Undeliverable => v1::StudyStage::Undeliverable,
        Stage::Delivered => v1::StudyStage::Delivered,
        Stage::NothingToRead => v1::StudyStage::NothingToRead,
        Stage::Closed => v1::StudyStage::Closed,
    }
}
