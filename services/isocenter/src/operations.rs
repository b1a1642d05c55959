//! `isocenter.v1.Operations`: what operators ask of this process, and of the store that all processes share.

use std::{pin::Pin, time::Duration};

use futures::{Stream, StreamExt as _};
use isocenter_domain::{access::Action, id::TenantId, record::RecordKind};
use isocenter_runtime::{principal::authorized, status::status, task::Tasks};
use isocenter_store::{
    Range, Revision, check,
    members::{Member, Members},
    table::Tables,
};
use isocenter_wire::v1::{
    CheckStoreRequest, CheckStoreResponse, DrainRequest, DrainResponse, DumpStoreRequest, DumpStoreResponse,
    ListNodesRequest, ListNodesResponse, Node, RaiseLevelRequest, RaiseLevelResponse, StartEpochRequest,
    StartEpochResponse, StoreCount, StoreFault, operations_server,
};
use tonic::{Request, Response, Status};

/// The service. Clones are the same.
#[derive(Clone, Debug)]
pub struct Operations {
    /// The store.
    pub tables: Tables,
    /// Who is there.
    pub members: Members,
    /// What draining ends.
    pub tasks: Tasks,
    /// Whose operators may ask: the tenant that runs the cell.
    pub tenant: TenantId,
    /// How long draining may take.
    pub drain: Duration,
}

impl Operations {
    /// Who asks, where it may.
    fn operator<T>(&self, request: &Request<T>) -> Result<String, Status> {
        Ok(authorized(request, &Action::Operate, &self.tenant)?.subject)
    }
}

#[tonic::async_trait]
impl operations_server::Operations for Operations {
    async fn list_nodes(
        &self,
        request: Request<ListNodesRequest>,
    ) -> Result<Response<ListNodesResponse>, Status> {
        self.operator(&request)?;
        let nodes = self.members.all().into_iter().map(node).collect();
        Ok(Response::new(ListNodesResponse { nodes }))
    }

    async fn drain(&self, request: Request<DrainRequest>) -> Result<Response<DrainResponse>, Status> {
        let actor = self.operator(&request)?;
        tracing::info!(actor, reason = request.get_ref().reason, "drained on request");
        // The server lets calls under way finish, this one among them.
        self.tasks.shut_down();
        let deadline_seconds = u32::try_from(self.drain.as_secs()).unwrap_or(u32::MAX);
        Ok(Response::new(DrainResponse { deadline_seconds }))
    }

    async fn raise_level(
        &self,
        request: Request<RaiseLevelRequest>,
    ) -> Result<Response<RaiseLevelResponse>, Status> {
        let actor = self.operator(&request)?;
        let level = match request.get_ref().level {
            0 => self.tables.known_level(),
            level => level,
        };
        self.tables.raise_level(level).await.map_err(|e| status(&e))?;
        tracing::info!(actor, level, "level raised");
        Ok(Response::new(RaiseLevelResponse { level }))
    }

    async fn start_epoch(
        &self,
        request: Request<StartEpochRequest>,
    ) -> Result<Response<StartEpochResponse>, Status> {
        let actor = self.operator(&request)?;
        let reason = &request.get_ref().reason;
        let epoch = self.tables.bump_epoch(reason).await.map_err(|e| status(&e))?;
        tracing::warn!(actor, epoch, reason, "a new epoch: every process of the old one stops");
        Ok(Response::new(StartEpochResponse { epoch }))
    }

    async fn check_store(
        &self,
        request: Request<CheckStoreRequest>,
    ) -> Result<Response<CheckStoreResponse>, Status> {
        self.operator(&request)?;
        let report = check::check(&self.tables).await.map_err(|e| status(&e))?;
        let count = |(kind, records): (RecordKind, u64)| StoreCount { kind: kind.to_string(), records };
        let fault = |problem: check::Problem| StoreFault { key: problem.key, what: problem.what };
        Ok(Response::new(CheckStoreResponse {
            revision: number(report.revision),
            counts: report.records.into_iter().map(count).collect(),
            outbox: report.outbox,
            leased: report.leased,
            future: report.future,
            faults: report.problems.into_iter().map(fault).collect(),
            fault_count: report.found,
        }))
    }

    type DumpStoreStream = Pin<Box<dyn Stream<Item = Result<DumpStoreResponse, Status>> + Send>>;

    async fn dump_store(
        &self,
        request: Request<DumpStoreRequest>,
    ) -> Result<Response<Self::DumpStoreStream>, Status> {
        self.operator(&request)?;
        let prefix = request.into_inner().prefix;
        let range = match prefix.as_str() {
            "" => Range::all(),
            prefix => Range::prefix(prefix).map_err(|e| Status::invalid_argument(format!("prefix: {e}")))?,
        };
        let lines = check::dump(&self.tables, range);
        let lines = lines.map(|line| {
            let line = line.map_err(|e| status(&e))?;
            Ok(DumpStoreResponse {
                key: line.key.to_string(),
                mod_revision: number(line.mod_revision),
                leased: line.leased,
                json: line.json,
            })
        });
        Ok(Response::new(Box::pin(lines)))
    }
}

/// A revision as etcd's own API has it.
fn number(revision: Revision) -> i64 {
    i64::try_from(revision.0).unwrap_or(i64::MAX)
}

fn node(member: Member) -> Node {
    Node {
        role: member.role,
        node_id: member.id.to_string(),
        address: member.node.address,
        level: member.node.level,
        version: member.node.version,
    }
}
