//! The names of calls, and tokens for pixels. Both follow from a task's key and the network's secret: every replica makes
//! the same, also after a restart, and none keeps any.

use data_encoding::BASE64URL_NOPAD;
use isocenter_domain::{Kind, Kinded, Time, key::AiTaskKey};
use isocenter_runtime::secret::Secret;

/// What the secret is used for here; the same parts give other references elsewhere.
const REQUEST: &str = "ai-request";
const FETCH: &str = "ai-fetch";

/// The longest text that may be a token: ids are at most 64 characters each.
const LONGEST: usize = 512;

/// A token that opens nothing. Which of the reasons holds is not told: a forger would learn from it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the fetch_token is wrong, is not this request's, or its time is over")]
pub(crate) struct Refused;

impl Kinded for Refused {
    fn kind(&self) -> Kind {
        Kind::Unauthenticated
    }
}

/// The `request_id` of a task: the same in every attempt, by whichever replica.
pub(crate) fn request_id(secret: &Secret, key: &AiTaskKey) -> String {
    let revision = key.revision.to_string();
    let parts = [key.tenant.as_str(), key.study.as_str(), key.service.as_str(), &revision];
    secret.reference(REQUEST, &parts).to_string()
}

/// A token for the pixels of the task, until `until`. It names the task openly: a vendor knows what it was asked.
pub(crate) fn issue(secret: &Secret, key: &AiTaskKey, until: Time) -> String {
    let claim = format!("{}/{}/{}/{}/{}", key.tenant, key.study, key.service, key.revision, until.0);
    let seal = secret.reference(FETCH, &[&claim]);
    format!("{}.{seal}", BASE64URL_NOPAD.encode(claim.as_bytes()))
}

/// The task whose pixels `token` opens at `now`, and until when it does.
pub(crate) fn verify(
    secret: &Secret,
    token: &str,
    request: &str,
    now: Time,
) -> Result<(AiTaskKey, Time), Refused> {
    if token.len() > LONGEST {
        return Err(Refused);
    }
    let (claim, seal) = token.split_once('.').ok_or(Refused)?;
    let claim = BASE64URL_NOPAD.decode(claim.as_bytes()).map_err(|_| Refused)?;
    let claim = String::from_utf8(claim).map_err(|_| Refused)?;
    let seal = seal.parse().map_err(|_| Refused)?;
    // Nothing of the claim is looked at before its seal has been: that takes the same time whatever is wrong.
    if !secret.verifies(FETCH, &[&claim], seal) {
        return Err(Refused);
    }
    let parts: Vec<&str> = claim.split('/').collect();
    let [tenant, study, service, revision, until] = parts.as_slice() else { return Err(Refused) };
    let key = AiTaskKey {
        tenant: tenant.parse().map_err(|_| Refused)?,
        study: study.parse().map_err(|_| Refused)?,
        service: service.parse().map_err(|_| Refused)?,
        revision: revision.parse().map_err(|_| Refused)?,
    };
    let until = Time(until.parse().map_err(|_| Refused)?);
    if now >= until || request_id(secret, &key) != request {
        return Err(Refused);
    }
    Ok((key, until))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key() -> AiTaskKey {
        AiTaskKey {
            tenant: "t".parse().unwrap(),
            study: "1.2.3".parse().unwrap(),
            service: "opacity".parse().unwrap(),
            revision: 2,
        }
    }

    #[test]
    fn a_token_opens_its_own_task_until_its_time() {
        let secret = Secret::new([7; 32]);
        let request = request_id(&secret, &key());
        let token = issue(&secret, &key(), Time(100));
        assert_eq!(verify(&secret, &token, &request, Time(99)), Ok((key(), Time(100))));
        assert_eq!(verify(&secret, &token, &request, Time(100)), Err(Refused));
        assert_eq!(verify(&secret, &token, "other", Time(1)), Err(Refused));
        assert_eq!(verify(&Secret::new([8; 32]), &token, &request, Time(1)), Err(Refused));
    }

    #[test]
    fn a_changed_token_opens_nothing() {
        let secret = Secret::new([7; 32]);
        let request = request_id(&secret, &key());
        let token = issue(&secret, &key(), Time(100));
        for at in 0..token.len() {
            let mut bytes = token.clone().into_bytes();
            bytes[at] = if bytes[at] == b'a' { b'b' } else { b'a' };
            let forged = String::from_utf8(bytes).unwrap();
            assert_eq!(verify(&secret, &forged, &request, Time(1)), Err(Refused), "at {at}");
        }
        let seal = token.split_once('.').unwrap().1;
        let longer = BASE64URL_NOPAD.encode(b"t/1.2.3/opacity/2/999999");
        for forged in ["", ".", "a.b", &token[..token.len() - 1], &format!("{longer}.{seal}")] {
            assert_eq!(verify(&secret, forged, &request, Time(1)), Err(Refused), "{forged}");
        }
        let long = "a".repeat(LONGEST + 1);
        assert_eq!(verify(&secret, &long, &request, Time(1)), Err(Refused));
    }

    #[test]
    fn requests_are_named_by_their_task_alone() {
        let secret = Secret::new([7; 32]);
        assert_eq!(request_id(&secret, &key()), request_id(&secret, &key()));
        let newer = AiTaskKey { revision: 3, ..key() };
        assert_ne!(request_id(&secret, &key()), request_id(&secret, &newer));
        assert_eq!(request_id(&secret, &key()).len(), 26);
    }
}
