//! One record as rows. Called only for a value newer than what the rows show.

use std::collections::BTreeMap;

use isocenter_domain::{
    document::Manifest,
    key::{AiTaskKey, CaseKey, DeliveryKey, PlanKey, ReadKey, ReportKey, StudyKey},
    record::{
        ai_task::{AiTask, AiTaskState},
        case::Case,
        delivery::{Delivery, DeliveryState},
        plan::Plan,
        read::Read,
        report::Report,
        study::Study,
    },
};
use sqlx::{Any, Transaction};

use super::number;
use crate::{
    Error,
    item::{Item, Kept},
};

type Tx = Transaction<'static, Any>;

/// Writes the rows of a record; of one that is gone, that it was closed.
pub(super) async fn item(
    tx: &mut Tx,
    manifests: &BTreeMap<StudyKey, Manifest>,
    item: &Item,
) -> Result<(), Error> {
    match item {
        Item::Study(Kept { key, value: Some((_, record)) }) => {
            study(tx, key, record, manifests.get(key)).await
        }
        Item::Study(Kept { key, value: None }) => {
            let closed = "UPDATE studies SET closed = 1, state = 'closed' WHERE tenant = $1 AND study = $2";
            let closed = sqlx::query(closed).bind(key.tenant.to_string()).bind(key.study.to_string());
            closed.execute(&mut **tx).await?;
            Ok(())
        }
        Item::Case(Kept { key, value: Some((_, record)) }) => case(tx, key, record).await,
        Item::Case(Kept { key, value: None }) => {
            let closed = "UPDATE cases SET closed = 1 WHERE tenant = $1 AND case_id = $2";
            let closed = sqlx::query(closed).bind(key.tenant.to_string()).bind(key.case.to_string());
            closed.execute(&mut **tx).await?;
            Ok(())
        }
        Item::Plan(Kept { key, value: Some((_, record)) }) => plan(tx, key, record).await,
        Item::AiTask(Kept { key, value: Some((_, record)) }) => ai_task(tx, key, record).await,
        Item::Read(Kept { key, value: Some((_, record)) }) => read(tx, key, record).await,
        Item::Report(Kept { key, value: Some((_, record)) }) => report(tx, key, record).await,
        Item::Delivery(Kept { key, value: Some((_, record)) }) => delivery(tx, key, record).await,
        // History stays as it last was.
        Item::Plan(Kept { value: None, .. })
        | Item::AiTask(Kept { value: None, .. })
        | Item::Read(Kept { value: None, .. })
        | Item::Report(Kept { value: None, .. })
        | Item::Delivery(Kept { value: None, .. })
        | Item::Other => Ok(()),
    }
}

async fn study(tx: &mut Tx, key: &StudyKey, study: &Study, manifest: Option<&Manifest>) -> Result<(), Error> {
    let facts = &study.facts;
    sqlx::query(
        "INSERT INTO studies (tenant, study, site, state, closed, revision, complete_at, modalities, body_part, images,
             instances, series, bytes, manifest_revision, study_date, patient_authority, patient_id, accession)
         VALUES ($1, $2, $3, $4, 0, $5, $6, $7, $8, $9, $10, $11, $12, 0, '', '', '', '')
         ON CONFLICT (tenant, study) DO UPDATE SET site = excluded.site, state = excluded.state, closed = 0,
             revision = excluded.revision, complete_at = excluded.complete_at, modalities = excluded.modalities,
             body_part = excluded.body_part, images = excluded.images, instances = excluded.instances,
             series = excluded.series, bytes = excluded.bytes",
    )
    .bind(key.tenant.to_string())
    .bind(key.study.to_string())
    .bind(study.site.to_string())
    .bind(study.state.name())
    .bind(i64::from(study.revision))
    .bind(study.complete_at.map_or(0, |at| at.0))
    .bind(facts.modalities.join("\\"))
    .bind(facts.body_part.clone())
    .bind(i64::from(facts.images))
    .bind(i64::from(facts.instances))
    .bind(i64::from(facts.series))
    .bind(number(facts.bytes))
    .execute(&mut **tx)
    .await?;
    // As the newest value has it, whichever older ones were projected before.
    let old = sqlx::query("DELETE FROM study_modalities WHERE tenant = $1 AND study = $2");
    old.bind(key.tenant.to_string()).bind(key.study.to_string()).execute(&mut **tx).await?;
    for modality in &facts.modalities {
        let known = "INSERT INTO study_modalities (tenant, study, modality) VALUES ($1, $2, $3)
             ON CONFLICT (tenant, study, modality) DO NOTHING";
        let known = sqlx::query(known).bind(key.tenant.to_string()).bind(key.study.to_string());
        known.bind(modality.clone()).execute(&mut **tx).await?;
    }
    match manifest {
        Some(manifest) => index(tx, key, manifest).await,
        None => Ok(()),
    }
}

/// Whose images they are, and each image.
pub(super) async fn index(tx: &mut Tx, key: &StudyKey, manifest: &Manifest) -> Result<(), Error> {
    let images = &manifest.images;
    sqlx::query(
        "UPDATE studies SET manifest_revision = $3, study_date = $4, patient_authority = $5, patient_id = $6,
             accession = $7 WHERE tenant = $1 AND study = $2 AND manifest_revision < $3",
    )
    .bind(key.tenant.to_string())
    .bind(key.study.to_string())
    .bind(i64::from(manifest.revision))
    .bind(images.study_date.clone())
    .bind(images.patient.authority.clone())
    .bind(images.patient.id.reveal().clone())
    .bind(images.accession.reveal().clone())
    .execute(&mut **tx)
    .await?;
    for (series, _, instance) in images.instances() {
        sqlx::query(
            "INSERT INTO images (tenant, study, series, instance, sop_class, transfer_syntax, size, sha256, frames)
             VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9) ON CONFLICT (tenant, study, instance) DO NOTHING",
        )
        .bind(key.tenant.to_string())
        .bind(key.study.to_string())
        .bind(series.to_string())
        .bind(instance.instance.to_string())
        .bind(instance.sop_class.to_string())
        .bind(instance.transfer_syntax.to_string())
        .bind(number(instance.size))
        .bind(instance.sha256.to_string())
        .bind(i64::from(instance.frames))
        .execute(&mut **tx)
        .await?;
    }
    Ok(())
}

async fn plan(tx: &mut Tx, key: &PlanKey, plan: &Plan) -> Result<(), Error> {
    sqlx::query(
        "INSERT INTO plans (tenant, study, revision, policy, case_id) VALUES ($1, $2, $3, $4, $5)
         ON CONFLICT (tenant, study) DO UPDATE SET revision = excluded.revision, policy = excluded.policy,
             case_id = excluded.case_id",
    )
    .bind(key.tenant.to_string())
    .bind(key.study.to_string())
    .bind(i64::from(plan.revision))
    .bind(plan.policy.to_string())
    .bind(plan.case().map(ToString::to_string).unwrap_or_default())
    .execute(&mut **tx)
    .await?;
    Ok(())
}

async fn case(tx: &mut Tx, key: &CaseKey, case: &Case) -> Result<(), Error> {
    sqlx::query(
        "INSERT INTO cases (tenant, case_id, site, class, closed, complete_at, due_at)
         VALUES ($1, $2, $3, $4, 0, $5, $6)
         ON CONFLICT (tenant, case_id) DO UPDATE SET site = excluded.site, class = excluded.class, closed = 0,
             complete_at = excluded.complete_at, due_at = excluded.due_at",
    )
    .bind(key.tenant.to_string())
    .bind(key.case.to_string())
    .bind(case.site.to_string())
    .bind(case.class.to_string())
    .bind(case.complete_at.0)
    .bind(case.due_at().0)
    .execute(&mut **tx)
    .await?;
    let old = sqlx::query("DELETE FROM case_members WHERE tenant = $1 AND case_id = $2");
    old.bind(key.tenant.to_string()).bind(key.case.to_string()).execute(&mut **tx).await?;
    for member in &case.members {
        let known = "INSERT INTO case_members (tenant, case_id, study) VALUES ($1, $2, $3)
             ON CONFLICT (tenant, case_id, study) DO NOTHING";
        let known = sqlx::query(known).bind(key.tenant.to_string()).bind(key.case.to_string());
        known.bind(member.to_string()).execute(&mut **tx).await?;
    }
    Ok(())
}

async fn ai_task(tx: &mut Tx, key: &AiTaskKey, task: &AiTask) -> Result<(), Error> {
    let answer = match &task.state {
        AiTaskState::Succeeded(answer) | AiTaskState::Late(answer) => Some(answer),
        AiTaskState::Pending { .. }
        | AiTaskState::Dispatched { .. }
        | AiTaskState::Rejected { .. }
        | AiTaskState::Failed(_)
        | AiTaskState::TimedOut
        | AiTaskState::Skipped { .. }
        | AiTaskState::Cancelled => None,
    };
    sqlx::query(
        "INSERT INTO ai_tasks (tenant, study, service, revision, state, attempts, requested_at, answered_at,
             probability_ppm, model, model_version) VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11)
         ON CONFLICT (tenant, study, service, revision) DO UPDATE SET state = excluded.state,
             attempts = excluded.attempts, answered_at = excluded.answered_at,
             probability_ppm = excluded.probability_ppm, model = excluded.model,
             model_version = excluded.model_version",
    )
    .bind(key.tenant.to_string())
    .bind(key.study.to_string())
    .bind(key.service.to_string())
    .bind(i64::from(key.revision))
    .bind(task.state.name())
    .bind(i64::from(task.attempts))
    .bind(task.requested_at.0)
    .bind(answer.map_or(0, |a| a.at.0))
    .bind(answer.map_or(0, |a| i64::from(a.probability_ppm)))
    .bind(answer.map(|a| a.model.clone()).unwrap_or_default())
    .bind(answer.map(|a| a.model_version.clone()).unwrap_or_default())
    .execute(&mut **tx)
    .await?;
    Ok(())
}

async fn read(tx: &mut Tx, key: &ReadKey, read: &Read) -> Result<(), Error> {
    let (reader, signed_at) = match read.concluded() {
        Some((reader, at, ..)) => (reader.to_string(), at.0),
        None => (read.holder().map(ToString::to_string).unwrap_or_default(), 0),
    };
    sqlx::query(
        "INSERT INTO reads (tenant, case_id, n, kind, state, reader, waiting_since, signed_at)
         VALUES ($1, $2, $3, $4, $5, $6, $7, $8)
         ON CONFLICT (tenant, case_id, n) DO UPDATE SET state = excluded.state, reader = excluded.reader,
             waiting_since = excluded.waiting_since, signed_at = excluded.signed_at",
    )
    .bind(key.tenant.to_string())
    .bind(key.read.case.to_string())
    .bind(i64::from(key.read.n))
    .bind(read.kind.name())
    .bind(read.state.name())
    .bind(reader)
    .bind(read.waiting_since.0)
    .bind(signed_at)
    .execute(&mut **tx)
    .await?;
    Ok(())
}

async fn report(tx: &mut Tx, key: &ReportKey, report: &Report) -> Result<(), Error> {
    sqlx::query(
        "INSERT INTO reports (tenant, case_id, n, version, kind, body, author, signed_at, about)
         VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9) ON CONFLICT (tenant, case_id, n, version) DO NOTHING",
    )
    .bind(key.tenant.to_string())
    .bind(key.read.case.to_string())
    .bind(i64::from(key.read.n))
    .bind(i64::from(key.version))
    .bind(report.kind.name())
    .bind(report.body.to_string())
    .bind(report.author.to_string())
    .bind(report.signed_at.0)
    .bind(report.about.map_or(0, i64::from))
    .execute(&mut **tx)
    .await?;
    for seen in &report.studies {
        let known = "INSERT INTO report_studies (tenant, case_id, n, version, study, revision)
             VALUES ($1, $2, $3, $4, $5, $6) ON CONFLICT (tenant, case_id, n, version, study) DO NOTHING";
        sqlx::query(known)
            .bind(key.tenant.to_string())
            .bind(key.read.case.to_string())
            .bind(i64::from(key.read.n))
            .bind(i64::from(key.version))
            .bind(seen.study.to_string())
            .bind(i64::from(seen.revision))
            .execute(&mut **tx)
            .await?;
    }
    Ok(())
}

async fn delivery(tx: &mut Tx, key: &DeliveryKey, delivery: &Delivery) -> Result<(), Error> {
    let accepted_at = match delivery.state {
        DeliveryState::ApplicationAccepted { at } => at.0,
        DeliveryState::Viewed { accepted, .. } => accepted.0,
        DeliveryState::Pending
        | DeliveryState::Sent { .. }
        | DeliveryState::Retrying { .. }
        | DeliveryState::Superseded { .. }
        | DeliveryState::DeadLetter { .. } => 0,
    };
    sqlx::query(
        "INSERT INTO deliveries (tenant, case_id, n, version, destination, state, attempts, message_id, accepted_at)
         VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9)
         ON CONFLICT (tenant, case_id, n, version, destination) DO UPDATE SET state = excluded.state,
             attempts = excluded.attempts, accepted_at = excluded.accepted_at",
    )
    .bind(key.report.tenant.to_string())
    .bind(key.report.read.case.to_string())
    .bind(i64::from(key.report.read.n))
    .bind(i64::from(key.report.version))
    .bind(key.destination.to_string())
    .bind(delivery.state.name())
    .bind(i64::from(delivery.attempts))
    .bind(delivery.message_id.clone())
    .bind(accepted_at)
    .execute(&mut **tx)
    .await?;
    Ok(())
}
