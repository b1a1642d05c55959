//! What is asked of the records.

use std::collections::BTreeSet;

use isocenter_domain::{
    Time,
    id::{CaseId, ReadId, TenantId},
    key::StudyKey,
};
use sqlx::{
    Any, AnyPool, Row as _,
    any::{AnyArguments, AnyRow},
};

use super::{Records, number};
use crate::Error;

/// A study in the image index.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct StudyRow {
    pub study: String,
    pub site: String,
    pub closed: bool,
    pub revision: u32,
    pub manifest_revision: u32,
    pub complete_at: i64,
    pub modalities: String,
    pub body_part: String,
    pub study_date: String,
    pub instances: u32,
    pub bytes: u64,
}

/// A report version.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct ReportRow {
    pub case: String,
    pub n: u32,
    pub version: u32,
    pub kind: String,
    pub body: String,
    pub author: String,
    pub signed_at: i64,
    /// The read whose report it stands beside; 0: none.
    pub about: u32,
}

/// An event, with the place at which a page may begin after it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct EventRow {
    pub key: String,
    pub seq: u64,
    pub op_id: String,
    pub event: String,
    pub actor: String,
    pub reason: String,
    pub at: i64,
    pub ord: i64,
}

/// What to search for; empty text is anything.
#[derive(Clone, Debug, Default)]
pub(crate) struct Search {
    pub authority: String,
    pub patient: String,
    pub accession: String,
    pub modality: String,
}

/// The events of a study, $2, and of its cases: two questions, each of which an index answers. An event is about one of both.
pub(super) const EVENTS: &str = "SELECT record_key, seq, op_id, event, actor, reason, at, ord FROM (
         SELECT * FROM events WHERE tenant = $1 AND study = $2
         UNION ALL
         SELECT * FROM events WHERE tenant = $1
         AND case_id IN (SELECT case_id FROM case_members WHERE tenant = $1 AND study = $2)) AS about
     WHERE (ord > $3 OR (ord = $3 AND (record_key > $4 OR (record_key = $4 AND (seq > $5 OR (seq = $5 AND op_id > $6))))))
     ORDER BY ord, record_key, seq, op_id LIMIT $7";

/// After every page that there can be.
const NEWEST: i64 = i64::MAX;

fn study_row(row: &AnyRow) -> Result<StudyRow, sqlx::Error> {
    Ok(StudyRow {
        study: row.try_get("study")?,
        site: row.try_get("site")?,
        closed: row.try_get::<i64, _>("closed")? != 0,
        revision: small(row.try_get("revision")?),
        manifest_revision: small(row.try_get("manifest_revision")?),
        complete_at: row.try_get("complete_at")?,
        modalities: row.try_get("modalities")?,
        body_part: row.try_get("body_part")?,
        study_date: row.try_get("study_date")?,
        instances: small(row.try_get("instances")?),
        bytes: u64::try_from(row.try_get::<i64, _>("bytes")?).unwrap_or(0),
    })
}

fn report_row(row: &AnyRow) -> Result<ReportRow, sqlx::Error> {
    Ok(ReportRow {
        case: row.try_get("case_id")?,
        n: small(row.try_get("n")?),
        version: small(row.try_get("version")?),
        kind: row.try_get("kind")?,
        body: row.try_get("body")?,
        author: row.try_get("author")?,
        signed_at: row.try_get("signed_at")?,
        about: small(row.try_get("about")?),
    })
}

pub(super) fn small(n: i64) -> u32 {
    u32::try_from(n).unwrap_or(0)
}

/// The revision whose manifest is indexed; 0 where none is.
pub(super) async fn indexed_revision(pool: &AnyPool, key: &StudyKey) -> Result<i64, Error> {
    let found = "SELECT manifest_revision FROM studies WHERE tenant = $1 AND study = $2";
    let found = sqlx::query(found).bind(key.tenant.to_string()).bind(key.study.to_string());
    let found = found.fetch_optional(pool).await?;
    Ok(found.map(|row| row.try_get("manifest_revision")).transpose()?.unwrap_or(0))
}

type Asked = sqlx::query::Query<'static, Any, AnyArguments>;

impl Records {
    pub(super) async fn rows(&self, asked: Asked) -> Result<Vec<AnyRow>, Error> {
        self.within(async { Ok(asked.fetch_all(&self.pool()).await?) }).await
    }

    pub(super) async fn row(&self, asked: Asked) -> Result<Option<AnyRow>, Error> {
        self.within(async { Ok(asked.fetch_optional(&self.pool()).await?) }).await
    }

    /// Studies that have been complete, newest first; `after` is the last of the page before.
    pub(crate) async fn search(
        &self,
        tenant: &TenantId,
        search: &Search,
        after: Option<(i64, String)>,
        limit: usize,
    ) -> Result<Vec<StudyRow>, Error> {
        let (before, than) = after.unwrap_or((NEWEST, String::new()));
        let rows = sqlx::query(
            "SELECT study, site, closed, revision, manifest_revision, complete_at, modalities, body_part, study_date,
                 instances, bytes
             FROM studies s WHERE tenant = $1 AND revision > 0
             AND ($2 = '' OR (patient_id = $2 AND patient_authority = $3)) AND ($4 = '' OR accession = $4)
             AND ($5 = '' OR EXISTS (SELECT 1 FROM study_modalities m
                 WHERE m.tenant = s.tenant AND m.study = s.study AND m.modality = $5))
             AND (complete_at < $6 OR (complete_at = $6 AND study < $7))
             ORDER BY complete_at DESC, study DESC LIMIT $8",
        )
        .bind(tenant.to_string())
        .bind(search.patient.clone())
        .bind(search.authority.clone())
        .bind(search.accession.clone())
        .bind(search.modality.clone())
        .bind(before)
        .bind(than)
        .bind(number(limit));
        let rows = self.rows(rows).await?;
        Ok(rows.iter().map(study_row).collect::<Result<_, _>>()?)
    }

    /// A page of a tenant's studies after a place, in the database's own order.
    pub(crate) async fn studies(
        &self,
        tenant: &TenantId,
        after: &str,
        limit: usize,
    ) -> Result<Vec<StudyRow>, Error> {
        let rows =
            "SELECT study, site, closed, revision, manifest_revision, complete_at, modalities, body_part,
             study_date, instances, bytes FROM studies WHERE tenant = $1 AND study > $2 ORDER BY study LIMIT $3";
        let rows = sqlx::query(rows).bind(tenant.to_string()).bind(after.to_owned()).bind(number(limit));
        Ok(self.rows(rows).await?.iter().map(study_row).collect::<Result<_, _>>()?)
    }

    /// Whether the records have a study.
    pub(crate) async fn has_study(&self, key: &StudyKey) -> Result<bool, Error> {
        let row = "SELECT revision FROM studies WHERE tenant = $1 AND study = $2";
        let row = sqlx::query(row).bind(key.tenant.to_string()).bind(key.study.to_string());
        Ok(self.row(row).await?.is_some())
    }

    /// The revision of a closed study whose images were last found whole; 0: none.
    pub(crate) async fn verified(&self, key: &StudyKey) -> Result<u32, Error> {
        let row = "SELECT revision FROM verified WHERE tenant = $1 AND study = $2";
        let row = sqlx::query(row).bind(key.tenant.to_string()).bind(key.study.to_string());
        Ok(self.row(row).await?.map(|row| row.try_get("revision")).transpose()?.map_or(0, small))
    }

    /// Notes that all images of a closed study's revision are there.
    pub(crate) async fn set_verified(&self, key: &StudyKey, revision: u32, now: Time) -> Result<(), Error> {
        let row = "INSERT INTO verified (tenant, study, revision, at) VALUES ($1, $2, $3, $4)
             ON CONFLICT (tenant, study) DO UPDATE SET revision = excluded.revision, at = excluded.at";
        let row = sqlx::query(row).bind(key.tenant.to_string()).bind(key.study.to_string());
        let row = row.bind(i64::from(revision)).bind(now.0);
        self.within(async {
            let _writer = self.writers.acquire().await;
            row.execute(&self.pool()).await?;
            Ok(())
        })
        .await
    }

    /// {assigning authority, patient id} of a study whose manifest is indexed.
    pub(crate) async fn patient(&self, key: &StudyKey) -> Result<Option<(String, String)>, Error> {
        let row = "SELECT patient_authority, patient_id FROM studies
             WHERE tenant = $1 AND study = $2 AND manifest_revision > 0";
        let row = sqlx::query(row).bind(key.tenant.to_string()).bind(key.study.to_string());
        let Some(row) = self.row(row).await? else { return Ok(None) };
        Ok(Some((row.try_get("patient_authority")?, row.try_get("patient_id")?)))
    }

    /// The other studies of a patient, newest first.
    pub(crate) async fn priors(
        &self,
        present: &StudyKey,
        authority: &str,
        patient: &str,
        limit: usize,
    ) -> Result<Vec<StudyRow>, Error> {
        let rows = sqlx::query(
            "SELECT study, site, closed, revision, manifest_revision, complete_at, modalities, body_part, study_date,
                 instances, bytes
             FROM studies WHERE tenant = $1 AND patient_authority = $2 AND patient_id = $3 AND study <> $4
             ORDER BY study_date DESC, complete_at DESC, study LIMIT $5",
        )
        .bind(present.tenant.to_string())
        .bind(authority.to_owned())
        .bind(patient.to_owned())
        .bind(present.study.to_string())
        .bind(number(limit));
        let rows = self.rows(rows).await?;
        Ok(rows.iter().map(study_row).collect::<Result<_, _>>()?)
    }

    /// The reports that name a study: `{case}.{number}`.
    pub(crate) async fn report_ids(&self, tenant: &TenantId, study: &str) -> Result<Vec<String>, Error> {
        let rows = "SELECT DISTINCT case_id, n FROM report_studies WHERE tenant = $1 AND study = $2
             ORDER BY case_id, n";
        let rows = sqlx::query(rows).bind(tenant.to_string()).bind(study.to_owned());
        let id = |row: &AnyRow| -> Result<String, sqlx::Error> {
            Ok(format!("{}.{}", row.try_get::<String, _>("case_id")?, row.try_get::<i64, _>("n")?))
        };
        Ok(self.rows(rows).await?.iter().map(id).collect::<Result<_, _>>()?)
    }

    /// A report version, the newest where `version` is 0, and the studies it names with their revisions.
    pub(crate) async fn report(
        &self,
        tenant: &TenantId,
        read: &ReadId,
        version: u32,
    ) -> Result<Option<(ReportRow, Vec<(String, u32)>)>, Error> {
        let row = "SELECT case_id, n, version, kind, body, author, signed_at, about FROM reports
             WHERE tenant = $1 AND case_id = $2 AND n = $3 AND ($4 = 0 OR version = $4)
             ORDER BY version DESC LIMIT 1";
        let row = sqlx::query(row)
            .bind(tenant.to_string())
            .bind(read.case.to_string())
            .bind(i64::from(read.n))
            .bind(i64::from(version));
        let Some(row) = self.row(row).await? else { return Ok(None) };
        let report = report_row(&row)?;
        let studies = "SELECT study, revision FROM report_studies
             WHERE tenant = $1 AND case_id = $2 AND n = $3 AND version = $4 ORDER BY study";
        let studies = sqlx::query(studies)
            .bind(tenant.to_string())
            .bind(read.case.to_string())
            .bind(i64::from(read.n))
            .bind(i64::from(report.version));
        let seen = |row: &AnyRow| -> Result<_, sqlx::Error> {
            Ok((row.try_get("study")?, small(row.try_get("revision")?)))
        };
        let studies = self.rows(studies).await?.iter().map(seen).collect::<Result<_, _>>()?;
        Ok(Some((report, studies)))
    }

    /// A page of a tenant's report versions after a place.
    pub(crate) async fn reports(
        &self,
        tenant: &TenantId,
        after: Option<&ReportRow>,
        limit: usize,
    ) -> Result<Vec<ReportRow>, Error> {
        let (case, n, version) =
            after.map_or((String::new(), 0, 0), |row| (row.case.clone(), row.n, row.version));
        let rows =
            "SELECT case_id, n, version, kind, body, author, signed_at, about FROM reports WHERE tenant = $1
             AND (case_id > $2 OR (case_id = $2 AND (n > $3 OR (n = $3 AND version > $4))))
             ORDER BY case_id, n, version LIMIT $5";
        let rows = sqlx::query(rows).bind(tenant.to_string()).bind(case).bind(i64::from(n));
        let rows = rows.bind(i64::from(version)).bind(number(limit));
        Ok(self.rows(rows).await?.iter().map(report_row).collect::<Result<_, _>>()?)
    }

    /// The events of a study and of its cases, oldest first, after a place.
    pub(crate) async fn events(
        &self,
        key: &StudyKey,
        after: Option<(i64, String, u64, String)>,
        limit: usize,
    ) -> Result<Vec<EventRow>, Error> {
        let (ord, record, seq, op_id) = after.unwrap_or((i64::MIN, String::new(), 0, String::new()));
        let rows = sqlx::query(EVENTS)
            .bind(key.tenant.to_string())
            .bind(key.study.to_string())
            .bind(ord)
            .bind(record)
            .bind(number(seq))
            .bind(op_id)
            .bind(number(limit));
        let rows = self.rows(rows).await?;
        let event = |row: &AnyRow| -> Result<EventRow, sqlx::Error> {
            Ok(EventRow {
                key: row.try_get("record_key")?,
                seq: u64::try_from(row.try_get::<i64, _>("seq")?).unwrap_or(0),
                op_id: row.try_get("op_id")?,
                event: row.try_get("event")?,
                actor: row.try_get("actor")?,
                reason: row.try_get("reason")?,
                at: row.try_get("at")?,
                ord: row.try_get("ord")?,
            })
        };
        Ok(rows.iter().map(event).collect::<Result<_, _>>()?)
    }

    /// How far each record of a tenant is projected: a page of key, seq, whether it is gone.
    pub(crate) async fn applied(
        &self,
        tenant: &TenantId,
        after: &str,
        limit: usize,
    ) -> Result<Vec<(String, u64, bool)>, Error> {
        let rows = "SELECT record_key, seq, gone FROM applied WHERE tenant = $1 AND record_key > $2
             ORDER BY record_key LIMIT $3";
        let rows = sqlx::query(rows).bind(tenant.to_string()).bind(after.to_owned()).bind(number(limit));
        let line = |row: &AnyRow| -> Result<_, sqlx::Error> {
            let seq = u64::try_from(row.try_get::<i64, _>("seq")?).unwrap_or(0);
            Ok((row.try_get("record_key")?, seq, row.try_get::<i64, _>("gone")? != 0))
        };
        Ok(self.rows(rows).await?.iter().map(line).collect::<Result<_, _>>()?)
    }

    /// The counters under which events of a record are known.
    pub(crate) async fn seqs(&self, record: &str) -> Result<BTreeSet<u64>, Error> {
        let rows =
            sqlx::query("SELECT DISTINCT seq FROM events WHERE record_key = $1").bind(record.to_owned());
        let seq = |row: &AnyRow| -> Result<u64, sqlx::Error> {
            Ok(u64::try_from(row.try_get::<i64, _>("seq")?).unwrap_or(0))
        };
        Ok(self.rows(rows).await?.iter().map(seq).collect::<Result<_, _>>()?)
    }

    /// A study of a case.
    pub(crate) async fn member_of(&self, tenant: &TenantId, case: &CaseId) -> Result<Option<String>, Error> {
        let row = "SELECT study FROM case_members WHERE tenant = $1 AND case_id = $2 ORDER BY study LIMIT 1";
        let row = sqlx::query(row).bind(tenant.to_string()).bind(case.to_string());
        Ok(self.row(row).await?.map(|row| row.try_get("study")).transpose()?)
    }

    /// How far one record is projected, and whether it is gone; 0 where it is not projected.
    pub(crate) async fn applied_one(&self, record: &str) -> Result<(u64, bool), Error> {
        let row = sqlx::query("SELECT seq, gone FROM applied WHERE record_key = $1").bind(record.to_owned());
        let Some(row) = self.row(row).await? else { return Ok((0, false)) };
        let seq = u64::try_from(row.try_get::<i64, _>("seq")?).unwrap_or(0);
        Ok((seq, row.try_get::<i64, _>("gone")? != 0))
    }
}
