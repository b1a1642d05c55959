//! `isocenter.v1.Archive`.

use std::sync::Arc;

use data_encoding::BASE64URL_NOPAD;
use futures::stream::BoxStream;
use isocenter_blobs::{Blobs, path};
use isocenter_domain::{
    Time,
    access::{Action, Principal, authorize},
    document::{Manifest, ReportBody},
    id::{InvalidId, ReadId, StudyUid, TenantId},
    key::{self, ReadKey, ReportKey, StudyKey},
    record::{report::Report, study::Study},
    refs::Digest,
};
use isocenter_runtime::{
    principal::{authorized, principal},
    status::{Answer, status},
    task::Tasks,
};
use isocenter_store::table::{Tables, owner_range};
use isocenter_wire::{
    document::Stored as _,
    timestamp,
    v1::{self, archive_server::Archive},
};
use tonic::{Request, Response, Status};

use crate::{
    Error,
    compare::Comparer,
    metrics::Metrics,
    reconcile::close::undecodable,
    records::{
        Records,
        query::{EventRow, Search, StudyRow},
    },
};

/// Items on a page where the caller does not say.
const PAGE: usize = 100;
/// Items on a page at most: some 300 KiB.
const LARGEST_PAGE: usize = 1_000;
/// Priors at most; a patient with more is looked for by search.
const PRIORS: usize = 100;
/// The longest text to search for: a DICOM LO has 64 characters.
const SEARCH_LIMIT: usize = 256;

/// The calls.
#[derive(Clone, Debug)]
pub(crate) struct Rpc {
    /// Whose operators may ask for what concerns every tenant.
    pub operator: TenantId,
    pub tables: Tables,
    pub blobs: Blobs,
    pub records: Records,
    pub comparer: Arc<Comparer>,
    pub metrics: Metrics,
    pub tasks: Tasks,
}

impl Rpc {
    async fn shown(&self, tenant: &TenantId, row: StudyRow) -> Result<v1::ArchivedStudy, Error> {
        let report_ids = self.records.report_ids(tenant, &row.study).await?;
        Ok(v1::ArchivedStudy {
            study_instance_uid: row.study,
            revision: row.revision,
            site_id: row.site,
            modalities: row.modalities,
            body_part: row.body_part,
            study_date: row.study_date,
            instance_count: row.instances,
            complete_at: (row.complete_at != 0).then(|| timestamp(Time(row.complete_at))),
            closed: row.closed,
            report_ids,
        })
    }

    async fn all_shown(
        &self,
        tenant: &TenantId,
        rows: Vec<StudyRow>,
    ) -> Result<Vec<v1::ArchivedStudy>, Error> {
        let mut studies = Vec::with_capacity(rows.len());
        for row in rows {
            studies.push(self.shown(tenant, row).await?);
        }
        Ok(studies)
    }

    /// Whose images a study has: from the records, or, where they do not have it yet, from its manifest.
    async fn patient(&self, key: &StudyKey) -> Result<(String, String), Error> {
        if let Some(patient) = self.records.patient(key).await? {
            return Ok(patient);
        }
        let study = self.tables.load::<Study>(key).await?.ok_or(Error::NoStudy)?.record;
        let Some(digest) = study.manifest else { return Ok(Default::default()) };
        let path = path::manifest(&key.tenant, &key.study, study.revision);
        let manifest = self.blobs.get_checked(&path, &digest).await?;
        let patient = Manifest::decode(&manifest).map_err(undecodable("a manifest"))?.images.patient;
        Ok((patient.authority, patient.id.into_revealed()))
    }

    async fn priors(&self, key: &StudyKey) -> Result<Vec<v1::ArchivedStudy>, Error> {
        let (authority, patient) = self.patient(key).await?;
        // A bare id says nothing: two authorities may have given it to two people.
        if authority.is_empty() || patient.is_empty() {
            return Ok(Vec::new());
        }
        let rows = self.records.priors(key, &authority, &patient, PRIORS).await?;
        self.all_shown(&key.tenant, rows).await
    }

    async fn report(&self, tenant: &TenantId, read: &ReadId, version: u32) -> Result<v1::Report, Error> {
        let report = match self.live_report(tenant, read, version).await? {
            Some(report) => report,
            None => self.closed_report(tenant, read, version).await?.ok_or(Error::NoReport)?,
        };
        let digest =
            <[u8; 32]>::try_from(report.sha256.as_slice()).map(Digest).map_err(|_| Error::NoReport)?;
        let body = self.blobs.get_checked(&path::report(tenant, read, &digest), &digest).await?;
        let body = ReportBody::decode(&body).map_err(undecodable("a report"))?;
        let (findings, impression) = (body.findings.into_revealed(), body.impression.into_revealed());
        Ok(v1::Report { findings, impression, ..report })
    }

    async fn live_report(
        &self,
        tenant: &TenantId,
        read: &ReadId,
        version: u32,
    ) -> Result<Option<v1::Report>, Error> {
        let number = read.n.to_string();
        let range = owner_range::<ReportKey>(tenant, read.case.as_str(), &[read.case.as_str(), &number]);
        let (versions, _) = self.tables.list::<Report>(&range).await?;
        let asked = versions.into_iter().filter(|report| version == 0 || report.key.version == version);
        let Some(found) = asked.max_by_key(|report| report.key.version) else { return Ok(None) };
        let (key, report) = (found.key, found.record);
        let seen = report.studies.iter();
        Ok(Some(v1::Report {
            report_id: read.to_string(),
            version: key.version,
            status: report_status(report.kind.name()).into(),
            case_id: read.case.to_string(),
            reader_id: report.author.to_string(),
            signed_at: Some(timestamp(report.signed_at)),
            sha256: report.body.0.to_vec(),
            about_report_id: report.about.map(|n| beside(read, n)).unwrap_or_default(),
            studies: seen.map(|seen| reported(seen.study.to_string(), seen.revision)).collect(),
            ..v1::Report::default()
        }))
    }

    async fn closed_report(
        &self,
        tenant: &TenantId,
        read: &ReadId,
        version: u32,
    ) -> Result<Option<v1::Report>, Error> {
        let Some((row, studies)) = self.records.report(tenant, read, version).await? else { return Ok(None) };
        let body: Digest = row.body.parse().map_err(|_| Error::NoReport)?;
        Ok(Some(v1::Report {
            report_id: read.to_string(),
            version: row.version,
            status: report_status(&row.kind).into(),
            case_id: read.case.to_string(),
            reader_id: row.author,
            signed_at: Some(timestamp(Time(row.signed_at))),
            sha256: body.0.to_vec(),
            about_report_id: if row.about == 0 { String::new() } else { beside(read, row.about) },
            studies: studies.into_iter().map(|(study, revision)| reported(study, revision)).collect(),
            ..v1::Report::default()
        }))
    }
}

#[tonic::async_trait]
impl Archive for Rpc {
    async fn search_studies(
        &self,
        request: Request<v1::SearchStudiesRequest>,
    ) -> Result<Response<v1::SearchStudiesResponse>, Status> {
        let by_patient = {
            let asked = request.get_ref();
            !asked.patient_id.is_empty() || !asked.accession_number.is_empty()
        };
        // What a search by identity finds is known to be of that patient.
        let action = if by_patient { Action::SeePatient } else { Action::Observe };
        let caller = allowed(&request, &action)?;
        let request = request.into_inner();
        let size = page_size(request.page_size)?;
        let search = search(&request)?;
        let after = page_after(&request.page_token, |parts| match parts {
            [at, study] => Some((at.parse().ok()?, (*study).to_owned())),
            _ => None,
        })?;
        let found = self.records.search(&caller.tenant, &search, after, size + 1).await;
        let mut found = found.map_err(|e| status(&e))?;
        let next_page_token =
            cut(&mut found, size, |last| vec![last.complete_at.to_string(), last.study.clone()]);
        let studies = self.all_shown(&caller.tenant, found).await.map_err(|e| status(&e))?;
        Ok(Response::new(v1::SearchStudiesResponse { studies, next_page_token }))
    }

    async fn list_priors(
        &self,
        request: Request<v1::ListPriorsRequest>,
    ) -> Result<Response<v1::ListPriorsResponse>, Status> {
        let caller = allowed(&request, &Action::SeePatient)?;
        let study = study(&request.get_ref().study_instance_uid)?;
        let key = StudyKey { tenant: caller.tenant, study };
        let studies = self.priors(&key).await.map_err(|e| status(&e))?;
        Ok(Response::new(v1::ListPriorsResponse { studies }))
    }

    async fn get_report(
        &self,
        request: Request<v1::GetReportRequest>,
    ) -> Result<Response<v1::Report>, Status> {
        let caller = allowed(&request, &Action::SeePatient)?;
        let request = request.into_inner();
        let read: ReadId = request.report_id.parse().map_err(|e| invalid("report_id", &e))?;
        let report = self.report(&caller.tenant, &read, request.version).await.map_err(|e| status(&e))?;
        if report.status() == v1::ReportStatus::Withheld {
            // Whoever reads the other of two blinded reads, or is reviewed, must not come by it this way.
            authorize(&caller, &Action::Operate, &caller.tenant).map_err(|denied| status(&denied))?;
        }
        Ok(Response::new(report))
    }

    async fn list_events(
        &self,
        request: Request<v1::ListEventsRequest>,
    ) -> Result<Response<v1::ListEventsResponse>, Status> {
        let caller = allowed(&request, &Action::Observe)?;
        let request = request.into_inner();
        let key = StudyKey { tenant: caller.tenant.clone(), study: study(&request.study_instance_uid)? };
        let size = page_size(request.page_size)?;
        let after = page_after(&request.page_token, |parts| match parts {
            [ord, record, seq, op] => {
                Some((ord.parse().ok()?, (*record).to_owned(), seq.parse().ok()?, (*op).to_owned()))
            }
            _ => None,
        })?;
        let mut found = self.records.events(&key, after, size + 1).await.map_err(|e| status(&e))?;
        let next_page_token = cut(&mut found, size, |last| {
            vec![last.ord.to_string(), last.key.clone(), last.seq.to_string(), last.op_id.clone()]
        });
        let tells_who = authorize(&caller, &Action::Operate, &caller.tenant).is_ok();
        let events = found.into_iter().map(|row| event(row, tells_who)).collect();
        Ok(Response::new(v1::ListEventsResponse { events, next_page_token }))
    }

    async fn reconcile(
        &self,
        request: Request<v1::ReconcileRequest>,
    ) -> Result<Response<v1::ReconcileResponse>, Status> {
        let caller = allowed(&request, &Action::Operate)?;
        self.reconciled(&caller, request.into_inner()).await.map(Response::new)
    }

    async fn list_stuck(
        &self,
        request: Request<v1::ListStuckRequest>,
    ) -> Result<Response<v1::ListStuckResponse>, Status> {
        let caller = allowed(&request, &Action::Operate)?;
        self.stuck(&caller, &request.into_inner()).await.map(Response::new)
    }

    async fn check_history(
        &self,
        request: Request<v1::CheckHistoryRequest>,
    ) -> Result<Response<v1::CheckHistoryResponse>, Status> {
        let caller = allowed(&request, &Action::Operate)?;
        let history = self.records.history(&self.blobs, &caller.tenant).await.map_err(|e| status(&e))?;
        let gaps = history.gaps.into_iter().map(|gap| v1::HistoryGap { key: gap.key, what: gap.what });
        Ok(Response::new(v1::CheckHistoryResponse {
            records: history.records,
            events: history.events,
            journaled: history.journaled,
            gaps: gaps.collect(),
        }))
    }

    async fn list_arrivals(
        &self,
        request: Request<v1::ListArrivalsRequest>,
    ) -> Result<Response<v1::ListArrivalsResponse>, Status> {
        // How long each read took is about people at work.
        let caller = allowed(&request, &Action::Operate)?;
        self.arrived(&caller, &request.into_inner()).await.map(Response::new)
    }

    type RebuildRecordsStream = BoxStream<'static, Result<v1::RebuildRecordsResponse, Status>>;

    async fn rebuild_records(
        &self,
        request: Request<v1::RebuildRecordsRequest>,
    ) -> Result<Response<Self::RebuildRecordsStream>, Status> {
        let caller = authorized(&request, &Action::Operate, &self.operator)?;
        let reason = request.into_inner().reason;
        Ok(Response::new(self.rebuilt(&caller, reason)?))
    }
}

/// The caller, who acts in their own tenant only.
fn allowed<T>(request: &Request<T>, action: &Action) -> Result<Principal, Status> {
    let tenant = principal(request)?.tenant;
    authorized(request, action, &tenant)
}

fn search(request: &v1::SearchStudiesRequest) -> Result<Search, Status> {
    if !request.patient_id.is_empty() && request.patient_authority.is_empty() {
        let why = "is needed with patient_id: a bare id may be several people's";
        return Err(Answer::invalid("patient_authority", why).status());
    }
    for (field, text) in [
        ("patient_authority", &request.patient_authority),
        ("patient_id", &request.patient_id),
        ("accession_number", &request.accession_number),
        ("modality", &request.modality),
    ] {
        if text.len() > SEARCH_LIMIT {
            return Err(Answer::invalid(field, "is longer than 256 bytes").status());
        }
    }
    Ok(Search {
        authority: request.patient_authority.clone(),
        patient: request.patient_id.clone(),
        accession: request.accession_number.clone(),
        modality: request.modality.clone(),
    })
}

fn study(text: &str) -> Result<StudyUid, Status> {
    text.parse().map_err(|e| invalid("study_instance_uid", &e))
}

fn invalid(field: &'static str, why: &InvalidId) -> Status {
    Answer::invalid(field, why.to_string()).status()
}

pub(crate) fn page_size(asked: i32) -> Result<usize, Status> {
    match usize::try_from(asked) {
        Ok(0) => Ok(PAGE),
        Ok(size) if size <= LARGEST_PAGE => Ok(size),
        Ok(_) | Err(_) => Err(Answer::invalid("page_size", "is not 1 to 1000, or 0 for 100").status()),
    }
}

/// Cuts what was found to a page, and names its last item where there is more.
pub(crate) fn cut<T>(found: &mut Vec<T>, size: usize, place: impl Fn(&T) -> Vec<String>) -> String {
    let more = found.len() > size;
    found.truncate(size);
    match found.last().filter(|_| more) {
        // No part but the last, which may be an operation id, holds a line feed.
        Some(last) => BASE64URL_NOPAD.encode(place(last).join("\n").as_bytes()),
        None => String::new(),
    }
}

pub(crate) fn page_after<T>(token: &str, read: impl Fn(&[&str]) -> Option<T>) -> Result<Option<T>, Status> {
    if token.is_empty() {
        return Ok(None);
    }
    let text = BASE64URL_NOPAD.decode(token.as_bytes()).ok().and_then(|bytes| String::from_utf8(bytes).ok());
    let place = text.and_then(|text| read(&text.splitn(4, '\n').collect::<Vec<_>>()));
    place.map(Some).ok_or_else(|| Answer::invalid("page_token", "is not from an earlier answer").status())
}

/// An event for who may know who read, or for who may not: one of two blinded readers, or who is reviewed.
fn event(row: EventRow, tells_who: bool) -> v1::Event {
    let of_a_read = key::parse::<ReadKey>(&row.key).is_some() || key::parse::<ReportKey>(&row.key).is_some();
    let row = if tells_who || !of_a_read {
        row
    } else {
        EventRow { actor: String::new(), reason: String::new(), ..row }
    };
    v1::Event {
        key: row.key,
        seq: row.seq,
        event: row.event,
        actor: row.actor,
        reason: row.reason,
        at: Some(timestamp(Time(row.at))),
    }
}

fn reported(study: String, revision: u32) -> v1::ReportedStudy {
    v1::ReportedStudy { study_instance_uid: study, revision }
}

fn beside(read: &ReadId, n: u32) -> String {
    ReadId { case: read.case.clone(), n }.to_string()
}

fn report_status(kind: &str) -> v1::ReportStatus {
    match kind {
        "final" => v1::ReportStatus::Final,
        "correction" => v1::ReportStatus::Correction,
        "preliminary" => v1::ReportStatus::Preliminary,
        "non-diagnostic" => v1::ReportStatus::NoResult,
        "withheld" => v1::ReportStatus::Withheld,
        _ => v1::ReportStatus::Unspecified,
    }
}
