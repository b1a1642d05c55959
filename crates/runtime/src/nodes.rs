//! Our other processes: connections to them, and in whose name a call is passed on.

use std::{collections::BTreeMap, fmt, sync::Arc};

use data_encoding::BASE64URL_NOPAD;
use http::{HeaderMap, HeaderName, HeaderValue};
use isocenter_domain::access::{Principal, Role};
use parking_lot::Mutex;
use tonic::transport::Channel;

use crate::{
    telemetry::trace,
    tls::{Client, Tls, Undialable, channel},
};

/// Names the principal in whose name a process of ours calls. Believed from a certificate of a node; from anybody else it
/// is taken off before a handler sees the call.
pub const ON_BEHALF_OF: HeaderName = HeaderName::from_static("isocenter-on-behalf-of");

/// Connections kept. There are as many as processes; an address that is gone is not told of, so that the whole is begun
/// anew rather than grow for ever.
const MOST: usize = 256;

/// Connections to our other processes. Clones share them.
#[derive(Clone, Default)]
pub struct Nodes(Arc<Inner>);

#[derive(Default)]
struct Inner {
    client: Option<Client>,
    channels: Mutex<BTreeMap<String, Channel>>,
}

impl fmt::Debug for Nodes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Nodes").field("tls", &self.0.client.is_some()).finish_non_exhaustive()
    }
}

impl Nodes {
    /// For a process with these certificates; without, connections are plaintext, as all of a network on loopback are.
    #[must_use]
    pub fn new(tls: Option<&Tls>) -> Self {
        Self(Arc::new(Inner { client: tls.map(Tls::nodes), channels: Mutex::default() }))
    }

    /// The connection to the process that advertises `address`: `host:port`, or a URL, whose scheme then counts. It is made
    /// when it is first used.
    ///
    /// # Errors
    /// [`Undialable`].
    pub fn channel(&self, address: &str) -> Result<Channel, Undialable> {
        let mut channels = self.0.channels.lock();
        if let Some(channel) = channels.get(address) {
            return Ok(channel.clone());
        }
        let scheme = if self.0.client.is_some() { "https" } else { "http" };
        let url = if address.contains("://") { address.to_owned() } else { format!("{scheme}://{address}") };
        let made = channel(&url, self.0.client.as_ref())?;
        if channels.len() >= MOST {
            channels.clear();
        }
        channels.insert(address.to_owned(), made.clone());
        Ok(made)
    }

    /// Says in the headers of a call to another process in whose name it is, and in which trace. Without certificates there
    /// is one principal everywhere, and nothing to say.
    pub fn on_behalf_of(&self, principal: &Principal, headers: &mut HeaderMap) {
        headers.remove(ON_BEHALF_OF);
        if self.0.client.is_some() && !matches!(principal.role, Role::Node | Role::Developer) {
            let subject = BASE64URL_NOPAD.encode(principal.subject.as_bytes());
            let subject = HeaderValue::try_from(subject).expect("base64 is a header's value");
            headers.insert(ON_BEHALF_OF, subject);
        }
        trace::inject_headers(headers);
    }
}

/// The principal whom `headers` name; `None` where they name nobody; an error where what they say is no principal.
pub(crate) fn claimed(headers: &HeaderMap) -> Option<Result<Principal, Unclear>> {
    let mut values = headers.get_all(ON_BEHALF_OF).iter();
    let value = values.next()?;
    if values.next().is_some() {
        return Some(Err(Unclear));
    }
    let read = || {
        let subject = BASE64URL_NOPAD.decode(value.as_bytes()).ok()?;
        Principal::from_subject(std::str::from_utf8(&subject).ok()?).ok()
    };
    // A node acts for others or for itself, never for another node.
    Some(read().filter(|principal| principal.role != Role::Node).ok_or(Unclear))
}

/// A claim that names nobody.
#[derive(Debug)]
pub(crate) struct Unclear;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_claim_is_one_principal_or_refused() {
        let headers = |values: &[&str]| {
            let mut headers = HeaderMap::new();
            for value in values {
                let value = BASE64URL_NOPAD.encode(value.as_bytes());
                headers.append(ON_BEHALF_OF, value.parse().unwrap());
            }
            headers
        };
        let anna = "CN=anna,OU=reader,O=moscow";
        assert!(claimed(&headers(&[])).is_none());
        assert_eq!(claimed(&headers(&[anna])).unwrap().unwrap().subject, anna);
        for bad in [&[anna, anna][..], &["CN=n1,OU=node,O=moscow"], &["dev"], &[""]] {
            assert!(claimed(&headers(bad)).unwrap().is_err(), "{bad:?}");
        }
    }
}
