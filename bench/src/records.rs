//! Live records, read from the store and written to it without the roles.

use anyhow::{Context as _, Result};
use isocenter_domain::{
    id::{CaseId, ReadId, StudyUid},
    key::{CaseKey, IntakeKey, PlanKey, ReadKey, StudyKey, parse, text},
    record::{
        Record, RecordKind,
        case::Case,
        intake::Intake,
        plan::{Plan, Reading},
        read::Read,
        study::Study,
    },
};
use isocenter_runtime::random;
use isocenter_store::{Key, Kv, Op, Page, Range, Txn, list_all, table::kind_range};
use isocenter_wire::record::{Head, Stored, decode, encode};

/// The pool of the studies that are written without the roles. It has no readers but those who are put into it.
pub const KEPT: &str = "kept";
/// Studies of one transaction: five records each, below etcd's 128 operations.
const TOGETHER: u32 = 25;
/// Transactions at once.
const AT_ONCE: usize = 16;

/// How many reads there are: each study that was planned has one.
pub async fn waiting(kv: &dyn Kv) -> Result<usize> {
    Ok(list_all(kv, &kind_range(RecordKind::Read)).await?.items.len())
}

/// Whether the archive has taken every event.
pub async fn drained(kv: &dyn Kv) -> Result<bool> {
    let page = Page { limit: 1, ..Page::default() };
    Ok(kv.list(&Range::prefix("outbox/")?, page).await?.items.is_empty())
}

/// The records of one study that waits for a reader.
#[derive(Debug)]
pub struct Template {
    study: (StudyKey, Head, Study),
    intake: (IntakeKey, Head, Intake),
    plan: (PlanKey, Head, Plan),
    case: (CaseKey, Head, Case),
    read: (ReadKey, Head, Read),
}

impl Template {
    /// The records of the store's first study.
    pub async fn take(kv: &dyn Kv) -> Result<Self> {
        Ok(Self {
            study: first(kv).await?,
            intake: first(kv).await?,
            plan: first(kv).await?,
            case: first(kv).await?,
            read: first(kv).await?,
        })
    }

    /// Writes `studies` more of the same under ids of their own, as if they had come through the roles and been journaled.
    pub async fn multiply(&self, kv: &dyn Kv, studies: u32) -> Result<()> {
        use futures::{StreamExt as _, TryStreamExt as _, stream};
        let batches = (0..studies).step_by(TOGETHER.try_into()?).map(|from| TOGETHER.min(studies - from));
        let write = async |count: u32| -> Result<()> {
            let mut ops = Vec::new();
            for _ in 0..count {
                self.put_one(&mut ops)?;
            }
            kv.txn(Txn::always(ops)).await?;
            Ok(())
        };
        stream::iter(batches).map(write).buffer_unordered(AT_ONCE).try_collect::<Vec<()>>().await?;
        Ok(())
    }

    fn put_one(&self, ops: &mut Vec<Op>) -> Result<()> {
        let uid: StudyUid = format!("2.25.{}", random::uuid_v7().as_u128()).parse()?;
        let (study, head, record) = &self.study;
        put(ops, &StudyKey { study: uid.clone(), ..study.clone() }, head, record)?;
        let (intake, head, record) = &self.intake;
        put(ops, &IntakeKey { study: uid.clone(), ..intake.clone() }, head, record)?;
        let id = CaseId::of(&study.tenant, &uid);
        let (plan, head, record) = &self.plan;
        let reading = match &record.reading {
            Reading::Case(_) => Reading::Case(id.clone()),
            Reading::None { rule } => Reading::None { rule: rule.clone() },
        };
        put(ops, &PlanKey { study: uid.clone(), ..plan.clone() }, head, &Plan { reading, ..record.clone() })?;
        let (case, head, record) = &self.case;
        let members = vec![uid];
        // What is there to be waiting goes on waiting.
        let record = Case { members, pools: vec![KEPT.parse()?], ..record.clone() };
        put(ops, &CaseKey { case: id.clone(), ..case.clone() }, head, &record)?;
        let (read, head, record) = &self.read;
        let read = ReadKey { read: ReadId { case: id, n: read.read.n }, ..read.clone() };
        put(ops, &read, head, record)
    }
}

async fn first<R: Stored>(kv: &dyn Kv) -> Result<(R::Key, Head, R)> {
    let page = Page { limit: 1, ..Page::default() };
    let found = kv.list(&kind_range(<R::Key as isocenter_domain::key::RecordKey>::KIND), page).await?;
    let found = found.items.into_iter().next().context("the store has no such record")?;
    let key = parse::<R::Key>(found.key.as_str()).context("its key is of its kind")?;
    let (head, record) = decode::<R>(&found.value)?;
    Ok((key, head, record))
}

fn put<R: Stored + Record>(ops: &mut Vec<Op>, key: &R::Key, head: &Head, record: &R) -> Result<()> {
    ops.push(Op::put(&Key::new(text(key))?, encode(head, record)));
    Ok(())
}
