//! Requests for work that reach a replica which does not lead, passed on once.

use std::{sync::Arc, time::Duration};

use isocenter_runtime::telemetry;
use isocenter_wire::v1::{self, reader_assignment_client::ReaderAssignmentClient};
use parking_lot::Mutex;
use tonic::{
    Code, Request, Response, Status,
    transport::{Channel, Endpoint},
};

use crate::error::Error;

/// Marks a request that was passed on, so that two replicas that each take the other for the leader end it there.
const MARK: &str = "isocenter-forwarded";

/// How long the leader may take: well within what a workstation waits.
const TIMEOUT: Duration = Duration::from_secs(5);

/// A leader's address and the connection to it.
type Connection = (String, ReaderAssignmentClient<Channel>);

/// A connection to the leader.
#[derive(Clone, Debug, Default)]
pub(crate) struct Forward {
    /// To whom, and the connection; made anew for another leader.
    connection: Arc<Mutex<Option<Connection>>>,
}

/// Whether the request comes from another replica.
pub(crate) fn was_forwarded<T>(request: &Request<T>) -> bool {
    request.metadata().contains_key(MARK)
}

impl Forward {
    /// Passes the request on, with the caller's own credentials.
    pub async fn next_read(
        &self,
        leader: &str,
        request: &Request<v1::NextReadRequest>,
    ) -> Result<Response<v1::NextReadResponse>, Status> {
        let mut client = self.client(leader).map_err(|e| e.status())?;
        let mut passed = Request::new(request.get_ref().clone());
        passed.set_timeout(TIMEOUT);
        let metadata = passed.metadata_mut();
        metadata.insert(MARK, tonic::metadata::MetadataValue::from_static("1"));
        if let Some(credentials) = request.metadata().get("authorization") {
            metadata.insert("authorization", credentials.clone());
        }
        telemetry::trace::inject(metadata);
        match client.next_read(passed).await {
            Ok(answer) => Ok(answer),
            // The leader's own words have details; what the connection says has none, and the caller should try again.
            Err(status) if status.details().is_empty() && is_connection(status.code()) => {
                self.connection.lock().take();
                Err(Error::NoLeader.status())
            }
            Err(status) => Err(status),
        }
    }

    fn client(&self, leader: &str) -> Result<ReaderAssignmentClient<Channel>, Error> {
        let mut connection = self.connection.lock();
        if let Some((known, client)) = &*connection
            && known == leader
        {
            return Ok(client.clone());
        }
        let uri = if leader.contains("://") { leader.to_owned() } else { format!("http://{leader}") };
        let endpoint = Endpoint::from_shared(uri).map_err(|_| Error::NoLeader)?;
        let client = ReaderAssignmentClient::new(endpoint.connect_timeout(TIMEOUT).connect_lazy());
        *connection = Some((leader.to_owned(), client.clone()));
        Ok(client)
    }
}

const fn is_connection(code: Code) -> bool {
    matches!(
        code,
        Code::Unavailable | Code::Unknown | Code::Cancelled | Code::DeadlineExceeded | Code::Internal
    )
}
