//! A year of history is millions of rows: what is asked every day must not read them all. SQLite says how it would.

use sqlx::{AssertSqlSafe, Row as _};

use super::{Records, arrivals, query};

#[tokio::test]
async fn an_index_answers_what_is_asked_of_one_study_or_one_page() {
    let folder = tempfile::tempdir().unwrap();
    let url = format!("sqlite:{}", folder.path().join("records.db").display());
    let records = Records::open(&url).await.unwrap();
    let statements = [
        query::EVENTS.to_owned(),
        arrivals::STUDIES.to_owned(),
        arrivals::answers_of_page(),
        arrivals::reads_of_page(),
        arrivals::events_of_page(),
    ];
    for statement in statements {
        let plan = sqlx::query(AssertSqlSafe(format!("EXPLAIN QUERY PLAN {statement}")));
        for row in plan.fetch_all(&records.pool()).await.unwrap() {
            let step: String = row.try_get("detail").unwrap();
            // What was put together from two questions is read whole.
            let all = step.contains("(tenant=?)") || (step.starts_with("SCAN") && step != "SCAN about");
            assert!(!all, "{step} in {statement}");
        }
    }
}
