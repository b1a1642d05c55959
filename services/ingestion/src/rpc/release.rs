//! Operators end the waiting for a study, or for a node that is gone.

use std::{collections::BTreeSet, time::Duration};

use futures::StreamExt as _;
use isocenter_domain::{
    access::{Action, Principal},
    id::{NodeId, StudyUid},
    key::StudyKey,
    record::{intake::Intake, study::Study},
};
use isocenter_runtime::{principal, status::status};
use isocenter_store::{Revision, table::Cause};
use isocenter_wire::v1;
use tonic::{Request, Response, Status};

use super::Studies;
use crate::Error;

/// Studies released by one call: each is a transaction or two, so that a call takes seconds.
const AT_A_TIME: usize = 100;

/// The longest reason, and the longest request id, in bytes.
const LONGEST: (usize, usize) = (256, 64);

/// How long an answer waits for this process's cache to show what was done; then it shows the state before.
const CACHE: Duration = Duration::from_secs(2);

pub(super) async fn study(
    studies: &Studies,
    request: Request<v1::ReleaseStudyRequest>,
) -> Result<Response<v1::ReleaseStudyResponse>, Status> {
    let caller = allowed(&request)?;
    let request = request.into_inner();
    let study = StudyUid::new(&request.study_instance_uid)
        .map_err(|source| status(&Error::Request { field: "study_instance_uid", source }))?;
    let cause = cause(&caller, &request.request_id, &request.reason).map_err(|e| status(&e))?;
    let key = StudyKey { tenant: caller.tenant, study };
    let at = studies.completer.release(&key, &cause).await.map_err(|e| status(&e))?;
    studies.synced().await;
    shown(studies, &key, at).await;
    let released = studies.study(&key).ok_or_else(|| status(&Error::NoSuchStudy))?;
    Ok(Response::new(v1::ReleaseStudyResponse { study: Some(released) }))
}

pub(super) async fn node(
    studies: &Studies,
    request: Request<v1::ReleaseNodeRequest>,
) -> Result<Response<v1::ReleaseNodeResponse>, Status> {
    let caller = allowed(&request)?;
    let request = request.into_inner();
    let node = NodeId::new(&request.node_id)
        .map_err(|source| status(&Error::Request { field: "node_id", source }))?;
    let cause = cause(&caller, &request.request_id, &request.reason).map_err(|e| status(&e))?;
    studies.synced().await;
    let mut waiting = BTreeSet::new();
    for intake in studies.mirrors.of::<Intake>().all() {
        if intake.key.tenant == caller.tenant && intake.key.node == node && !intake.record.settled() {
            waiting.insert(intake.key.study.clone());
        }
    }
    let mut answer = v1::ReleaseNodeResponse::default();
    for study in waiting {
        if answer.study_instance_uids.len() == AT_A_TIME {
            answer.more = true;
            break;
        }
        let key = StudyKey { tenant: caller.tenant.clone(), study };
        match studies.completer.release(&key, &cause).await {
            Ok(_) => answer.study_instance_uids.push(key.study.to_string()),
            // It has no images but those that are lost with the node, or is closed: nobody waits for it.
            Err(Error::NothingInBlobs | Error::NoSuchStudy) => {
                answer.without_images.push(key.study.to_string());
            }
            Err(e) => return Err(status(&e)),
        }
    }
    Ok(Response::new(answer))
}

/// Waits until the cache shows the study as of `at`.
async fn shown(studies: &Studies, key: &StudyKey, at: Revision) {
    let mirror = studies.mirrors.of::<Study>();
    let mut changes = mirror.changes();
    let seen = async {
        while mirror.get(key).is_none_or(|study| study.mod_revision < at) {
            if changes.next().await.is_none() {
                return;
            }
        }
    };
    // Where it lags behind, the answer does.
    drop(tokio::time::timeout(CACHE, seen).await);
}

fn allowed<T>(request: &Request<T>) -> Result<Principal, Status> {
    let tenant = principal::principal(request)?.tenant;
    principal::authorized(request, &Action::Operate, &tenant)
}

fn cause(caller: &Principal, request_id: &str, reason: &str) -> Result<Cause, Error> {
    let (longest_reason, longest_id) = LONGEST;
    let printable = request_id.bytes().all(|byte| byte.is_ascii_graphic());
    if request_id.is_empty() || request_id.len() > longest_id || !printable {
        let why = "is not 1 to 64 printable ASCII characters; take a UUID";
        return Err(Error::Bounds { field: "request_id", why });
    }
    let reason = reason.trim();
    if reason.is_empty() || reason.len() > longest_reason {
        let why = "is not 1 to 256 characters; say why nobody waits any longer";
        return Err(Error::Bounds { field: "reason", why });
    }
    Ok(Cause::request(request_id, &caller.subject).because(reason))
}
