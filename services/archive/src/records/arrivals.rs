//! First reads in the order in which their studies were complete, with everything that the records know of how they went.

use std::collections::BTreeMap;

use isocenter_domain::{
    Time,
    id::TenantId,
    key::{self, ReadKey},
};
use sqlx::{AssertSqlSafe, Row as _, any::AnyRow};

use super::{Records, number, query::small};
use crate::{
    Error,
    arrivals::{Answer, Arrived, Happened, Reading},
};

/// A place in the order: when a study was complete, and its UID.
pub(crate) type Place = (i64, String);

/// The studies `s` of a page, and nothing else: $1 is the tenant, $2 and $3 the first's place, $4 and $5 the last's. What is said
/// twice about the time lets a database use its index.
const ON_PAGE: &str = "s.tenant = $1 AND s.complete_at >= $2 AND s.complete_at <= $4
     AND (s.complete_at > $2 OR s.study >= $3) AND (s.complete_at < $4 OR s.study <= $5)";

/// The studies of a time: $1 is the tenant, $2 and $3 the time, $4 and $5 the place after which they are wanted, $6 how many.
pub(super) const STUDIES: &str =
    "SELECT s.study, s.complete_at, s.site, s.modalities, s.body_part, COALESCE(c.class, '') AS class,
         COALESCE(c.case_id, '') AS case_id, COALESCE(c.complete_at, s.complete_at) AS ready_at,
         CAST(CASE WHEN p.study IS NULL THEN 0 ELSE 1 END AS BIGINT) AS planned,
         CAST(CASE WHEN EXISTS (SELECT 1 FROM case_members f WHERE f.tenant = m.tenant
             AND f.case_id = m.case_id AND f.study < m.study) THEN 1 ELSE 0 END AS BIGINT) AS beside
     FROM studies s
     LEFT JOIN plans p ON p.tenant = s.tenant AND p.study = s.study
     LEFT JOIN case_members m ON m.tenant = s.tenant AND m.study = s.study
     LEFT JOIN cases c ON c.tenant = m.tenant AND c.case_id = m.case_id
     WHERE s.tenant = $1 AND s.revision > 0 AND s.complete_at >= $2 AND s.complete_at < $3
     AND (s.complete_at > $4 OR (s.complete_at = $4 AND s.study > $5))
     ORDER BY s.complete_at, s.study LIMIT $6";

/// What AI answered in time.
pub(super) fn answers_of_page() -> String {
    format!(
        "SELECT t.study, t.revision, t.probability_ppm, t.answered_at FROM studies s
         JOIN ai_tasks t ON t.tenant = s.tenant AND t.study = s.study AND t.state = 'succeeded' WHERE {ON_PAGE}"
    )
}

fn cases_of_page() -> String {
    format!(
        "SELECT m.case_id FROM studies s
         JOIN case_members m ON m.tenant = s.tenant AND m.study = s.study WHERE {ON_PAGE}"
    )
}

pub(super) fn reads_of_page() -> String {
    let cases = cases_of_page();
    format!(
        "SELECT case_id, n, kind FROM reads WHERE tenant = $1 AND case_id IN ({cases}) ORDER BY case_id, n"
    )
}

/// Of each read what happened, in order.
pub(super) fn events_of_page() -> String {
    let cases = cases_of_page();
    format!(
        "SELECT case_id, record_key, event, at FROM events WHERE tenant = $1 AND kind = 'read'
         AND case_id IN ({cases}) ORDER BY record_key, seq, op_id"
    )
}

impl Records {
    /// Studies that were complete from `from` on and before `to`, the oldest first, each with its place; `after` is the last
    /// place of the page before.
    pub(crate) async fn arrivals(
        &self,
        tenant: &TenantId,
        [from, to]: [Time; 2],
        after: Option<Place>,
        limit: usize,
    ) -> Result<Vec<(Place, Arrived)>, Error> {
        let (at, study) = after.unwrap_or((i64::MIN, String::new()));
        let rows = sqlx::query(STUDIES)
            .bind(tenant.to_string())
            .bind(from.0.max(at))
            .bind(to.0)
            .bind(at)
            .bind(study)
            .bind(number(limit));
        let rows = self.rows(rows).await?;
        let mut found = rows.iter().map(arrived).collect::<Result<Vec<_>, _>>()?;
        if let (Some((first, _)), Some((last, _))) = (found.first(), found.last()) {
            let page = (tenant, first.clone(), last.clone());
            let (mut answers, mut reads) = (self.answers(&page).await?, self.readings(&page).await?);
            for ((_, study), arrived) in &mut found {
                arrived.answers = answers.remove(study).unwrap_or_default();
                // The case's other studies may come before the one that stands for it.
                if !arrived.beside {
                    arrived.reads = reads.remove(&arrived.case).unwrap_or_default();
                }
            }
        }
        Ok(found)
    }

    /// What AI answered in time, by study.
    async fn answers(&self, page: &Page<'_>) -> Result<BTreeMap<String, Vec<Answer>>, Error> {
        let mut answers: BTreeMap<String, Vec<Answer>> = BTreeMap::new();
        for row in self.on_page(answers_of_page(), page).await? {
            let answer = Answer {
                revision: small(row.try_get("revision")?),
                probability_ppm: small(row.try_get("probability_ppm")?),
                at: Time(row.try_get("answered_at")?),
            };
            answers.entry(row.try_get("study")?).or_default().push(answer);
        }
        Ok(answers)
    }

    /// The reads by case, each with its events, in the order in which they happened.
    async fn readings(&self, page: &Page<'_>) -> Result<BTreeMap<String, Vec<Reading>>, Error> {
        let mut found: BTreeMap<String, BTreeMap<u32, Reading>> = BTreeMap::new();
        for row in self.on_page(reads_of_page(), page).await? {
            let reading = Reading { kind: row.try_get("kind")?, events: Vec::new() };
            found.entry(row.try_get("case_id")?).or_default().insert(small(row.try_get("n")?), reading);
        }
        for row in self.on_page(events_of_page(), page).await? {
            let (case, key): (String, String) = (row.try_get("case_id")?, row.try_get("record_key")?);
            let read = key::parse::<ReadKey>(&key).map(|key| key.read.n);
            let Some(reading) = found.get_mut(&case).and_then(|reads| reads.get_mut(&read?)) else {
                continue;
            };
            let at = Time(row.try_get("at")?);
            reading.events.push(Happened { event: row.try_get("event")?, at });
        }
        Ok(found.into_iter().map(|(case, reads)| (case, reads.into_values().collect())).collect())
    }

    async fn on_page(&self, text: String, (tenant, first, last): &Page<'_>) -> Result<Vec<AnyRow>, Error> {
        let rows = sqlx::query(AssertSqlSafe(text)).bind(tenant.to_string());
        let rows = rows.bind(first.0).bind(first.1.clone()).bind(last.0).bind(last.1.clone());
        self.rows(rows).await
    }
}

/// The tenant, and the places of the first study and the last.
type Page<'a> = (&'a TenantId, Place, Place);

fn arrived(row: &AnyRow) -> Result<(Place, Arrived), sqlx::Error> {
    let modalities: String = row.try_get("modalities")?;
    let place = (row.try_get("complete_at")?, row.try_get("study")?);
    let arrived = Arrived {
        complete_at: Time(row.try_get("ready_at")?),
        site: row.try_get("site")?,
        class: row.try_get("class")?,
        modalities: modalities.split('\\').filter(|text| !text.is_empty()).map(str::to_owned).collect(),
        body_part: row.try_get("body_part")?,
        planned: row.try_get::<i64, _>("planned")? != 0,
        case: row.try_get("case_id")?,
        beside: row.try_get::<i64, _>("beside")? != 0,
        answers: Vec::new(),
        reads: Vec::new(),
    };
    Ok((place, arrived))
}
