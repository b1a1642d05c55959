//! Requests for work that reach a replica which does not lead, passed on once.

use std::time::Duration;

use isocenter_domain::access::Principal;
use isocenter_runtime::nodes::Nodes;
use isocenter_wire::v1::{self, reader_assignment_client::ReaderAssignmentClient};
use tonic::{Code, Request, Response, Status, metadata::MetadataMap};

use crate::error::Error;

/// Marks a request that was passed on, so that two replicas that each take the other for the leader end it there.
const MARK: &str = "isocenter-forwarded";

/// How long the leader may take: well within what a workstation waits.
const TIMEOUT: Duration = Duration::from_secs(5);

/// The way to the leader.
#[derive(Clone, Debug)]
pub(crate) struct Forward(Nodes);

/// Whether the request comes from another replica.
pub(crate) fn was_forwarded<T>(request: &Request<T>) -> bool {
    request.metadata().contains_key(MARK)
}

impl Forward {
    pub const fn new(nodes: Nodes) -> Self {
        Self(nodes)
    }

    /// Passes the request on, in the name of its caller.
    pub async fn next_read(
        &self,
        leader: &str,
        principal: &Principal,
        request: &v1::NextReadRequest,
    ) -> Result<Response<v1::NextReadResponse>, Status> {
        let channel = self.0.channel(leader).map_err(|_| Error::NoLeader.status())?;
        let mut headers = http::HeaderMap::new();
        self.0.on_behalf_of(principal, &mut headers);
        headers.insert(MARK, http::HeaderValue::from_static("1"));
        let mut passed = Request::new(request.clone());
        *passed.metadata_mut() = MetadataMap::from_headers(headers);
        passed.set_timeout(TIMEOUT);
        match ReaderAssignmentClient::new(channel).next_read(passed).await {
            Ok(answer) => Ok(answer),
            // The leader's own words have details; what the connection says has none, and the caller should try again.
            Err(status) if status.details().is_empty() && is_connection(status.code()) => {
                Err(Error::NoLeader.status())
            }
            Err(status) => Err(status),
        }
    }
}

const fn is_connection(code: Code) -> bool {
    matches!(
        code,
        Code::Unavailable | Code::Unknown | Code::Cancelled | Code::DeadlineExceeded | Code::Internal
    )
}
