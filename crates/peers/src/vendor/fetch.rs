//! Pixels from `AiDispatch.FetchInstances`.

use std::{collections::BTreeSet, time::Duration};

use bytes::Bytes;
use isocenter_wire::v1::{
    AnalyzeRequest, FetchInstancesRequest, InstanceReference, ai_dispatch_client::AiDispatchClient,
    fetch_instances_response::Part,
};
use sha2::{Digest as _, Sha256};
use tonic::{Status, transport::Endpoint};

/// What one study may weigh in memory: a vendor that holds more in RAM is better served by files.
pub(super) const MAX_BYTES: u64 = 1 << 30;
/// How long the connection may take.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);

/// Fetches the instances named, checks each one's length and SHA-256, and that none is missing.
pub(super) async fn fetch(
    request: &AnalyzeRequest,
    wanted: &[&InstanceReference],
) -> Result<Vec<Bytes>, Status> {
    let endpoint = Endpoint::from_shared(request.fetch_address.clone())
        .map_err(|_| Status::invalid_argument("fetch_address is not a URI"))?
        .connect_timeout(CONNECT_TIMEOUT);
    let channel = endpoint.connect().await.map_err(|e| {
        Status::unavailable(format!(
            "cannot connect to fetch_address: {}",
            isocenter_runtime::task::chain(&e)
        ))
    })?;
    let mut stream = AiDispatchClient::new(channel)
        .fetch_instances(FetchInstancesRequest {
            request_id: request.request_id.clone(),
            fetch_token: request.fetch_token.clone(),
            sop_instance_uids: wanted.iter().map(|i| i.sop_instance_uid.clone()).collect(),
        })
        .await?
        .into_inner();
    let mut missing: BTreeSet<&str> = wanted.iter().map(|i| i.sop_instance_uid.as_str()).collect();
    let mut files = Vec::with_capacity(wanted.len());
    let mut open: Option<File> = None;
    while let Some(message) = stream.message().await? {
        match (message.part, open.take()) {
            (Some(Part::Begin(instance)), None) => {
                if !missing.remove(instance.sop_instance_uid.as_str()) {
                    return Err(Status::data_loss("an instance that was not asked for, or one twice"));
                }
                open = Some(File::new(&instance)?);
            }
            (Some(Part::Chunk(chunk)), Some(file)) => open = Some(file.with(&chunk)?),
            (Some(Part::End(end)), Some(file)) => files.push(file.finish(&end.sha256)?),
            _ => return Err(Status::data_loss("parts of the stream are out of order")),
        }
    }
    if open.is_some() || !missing.is_empty() {
        return Err(Status::data_loss("the stream ended before every instance was there"));
    }
    Ok(files)
}

/// One instance while it arrives.
struct File {
    bytes: Vec<u8>,
    size: u64,
}

impl File {
    fn new(instance: &InstanceReference) -> Result<Self, Status> {
        let size = instance.size_bytes;
        if size > MAX_BYTES {
            return Err(Status::out_of_range("an instance is larger than this vendor takes"));
        }
        // The size is the peer's claim: memory is taken as bytes arrive.
        Ok(Self { bytes: Vec::new(), size })
    }

    fn with(mut self, chunk: &[u8]) -> Result<Self, Status> {
        if (self.bytes.len() + chunk.len()) as u64 > self.size {
            return Err(Status::data_loss("an instance is longer than it was said to be"));
        }
        self.bytes.extend_from_slice(chunk);
        Ok(self)
    }

    fn finish(self, sha256: &[u8]) -> Result<Bytes, Status> {
        if self.bytes.len() as u64 != self.size {
            return Err(Status::data_loss("an instance is shorter than it was said to be"));
        }
        if Sha256::digest(&self.bytes).as_slice() != sha256 {
            return Err(Status::data_loss("an instance does not have its SHA-256"));
        }
        Ok(Bytes::from(self.bytes))
    }
}
