//! What a service says of itself: `Describe` and grpc.health.v1.

use isocenter_wire::v1::{DescribeRequest, DescribeResponse, ai_inference_server};
use tonic::{Code, Request, Status};
use tonic_health::pb::{HealthCheckRequest, health_check_response::ServingStatus};

use super::{Client, SHORT_CALL, Said};
use crate::{
    plan::{Description, Model},
    reconcile::gate::To,
};

/// The most modalities, body parts or transfer syntaxes of a description; the standard defines some 60 each.
const MAX_LIST: usize = 256;
/// The longest of these in bytes: a UID has 64, a code string 16.
const MAX_ITEM: usize = 64;
/// The longest name of a vendor, a model or a version in bytes: answers have the latter two, too.
const MAX_NAME: usize = 128;
/// The longest statement of what it is for, in bytes.
const MAX_USE: usize = 1 << 10;

impl Client {
    /// What the service says it is; `None` where it says nothing, or something against the contract.
    pub(super) async fn described(&self, id: &To) -> Option<Said> {
        let mut request = Request::new(DescribeRequest {});
        request.set_timeout(SHORT_CALL);
        match self.inference.clone().describe(request).await {
            Ok(answer) => {
                let said = said(answer.into_inner());
                if said.is_none() {
                    tracing::warn!(service = %id.1, "ai service describes itself against the contract; the registry alone holds");
                }
                said
            }
            Err(status) => {
                tracing::info!(service = %id.1, code = ?status.code(), "ai service does not describe itself");
                None
            }
        }
    }

    /// Whether the service says that it serves. One that says nothing is judged by its calls.
    pub(super) async fn serves(&self) -> bool {
        let service = ai_inference_server::SERVICE_NAME.to_owned();
        match self.health(service).await {
            // It tells of the whole process only.
            Err(status) if status.code() == Code::NotFound => {
                !self.health(String::new()).await.is_ok_and(not_serving)
            }
            answer => !answer.is_ok_and(not_serving),
        }
    }

    async fn health(&self, service: String) -> Result<ServingStatus, Status> {
        let mut request = Request::new(HealthCheckRequest { service });
        request.set_timeout(SHORT_CALL);
        Ok(self.health.clone().check(request).await?.into_inner().status())
    }
}

fn not_serving(status: ServingStatus) -> bool {
    status == ServingStatus::NotServing
}

/// A description that keeps the contract.
fn said(answer: DescribeResponse) -> Option<Said> {
    let max_concurrency = usize::try_from(answer.max_concurrency).unwrap_or(usize::MAX);
    let list = |list: &[String]| list.len() <= MAX_LIST && list.iter().all(|item| item.len() <= MAX_ITEM);
    let lists =
        list(&answer.modalities) && list(&answer.body_parts) && list(&answer.accepted_transfer_syntaxes);
    let names = [&answer.vendor, &answer.model_id, &answer.model_version];
    let named = names.into_iter().all(|name| name.len() <= MAX_NAME) && answer.intended_use.len() <= MAX_USE;
    let minded = Description {
        modalities: answer.modalities.clone(),
        body_parts: answer.body_parts.iter().map(|part| part.to_uppercase()).collect(),
        transfer_syntaxes: answer.accepted_transfer_syntaxes.clone(),
        max_concurrency,
        model: Model { id: answer.model_id.clone(), version: answer.model_version.clone() },
    };
    (max_concurrency > 0 && lists && named).then_some(Said { whole: answer, minded })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_description_that_takes_nothing_at_a_time_or_too_much_to_keep_is_none() {
        let described = |change: fn(&mut DescribeResponse)| {
            let mut answer =
                DescribeResponse { max_concurrency: 3, modalities: vec!["CR".into()], ..Default::default() };
            change(&mut answer);
            said(answer).map(|said| said.minded.max_concurrency)
        };
        assert_eq!(described(|_| {}), Some(3));
        assert_eq!(described(|a| a.max_concurrency = 0), None);
        assert_eq!(described(|a| a.modalities = vec!["CR".into(); MAX_LIST + 1]), None);
        assert_eq!(described(|a| a.accepted_transfer_syntaxes = vec!["1".repeat(MAX_ITEM + 1)]), None);
        assert_eq!(described(|a| a.model_version = "1".repeat(MAX_NAME + 1)), None);
        assert_eq!(described(|a| a.intended_use = "1".repeat(MAX_USE + 1)), None);
    }
}
