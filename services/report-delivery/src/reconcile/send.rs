//! One attempt: the message made ready, and the exchange with the receiver.

use std::time::Duration;

use isocenter_blobs::{BlobPath, Blobs, path};
use isocenter_domain::{
    Kind, Kinded as _,
    document::{Manifest, ReportBody},
    id::{DestinationId, TenantId},
    key::{DeliveryKey, RegistryItem, RegistryKey},
    record::{
        delivery::Delivery,
        registry::{Destination, Entry, Via},
        report::Report,
    },
    refs::Digest,
};
use isocenter_hl7::{
    Ack, Verdict,
    mllp::{Client, MllpError},
};
use isocenter_runtime::{task::chain, tls};
use isocenter_store::{
    Revision,
    table::{Mirror, Tables},
};
use isocenter_wire::document::Stored as _;
use tokio::time::timeout;

use crate::{Error, message::Parts, plan::Ended};

/// How much of an error a record keeps, in characters: records stay small.
const ERROR_LIMIT: usize = 200;

/// What is ready, or why it is not.
pub(crate) enum Ready<T> {
    /// It.
    It(T),
    /// Nothing that time could change; a person has to look.
    Never(String),
    /// Not as things stand.
    NotNow(String),
}

/// A destination as it is registered.
pub(crate) struct Registered {
    pub destination: Destination,
    /// By which change of the registry.
    pub changed: Revision,
}

/// An HL7 message, and where it goes.
pub(super) struct Hl7 {
    text: String,
    address: String,
    tls: Option<tls::Client>,
}

/// Reads everything a message is made of, and makes it.
#[derive(Debug)]
pub(crate) struct Preparer {
    pub tables: Tables,
    pub registry: Mirror<Entry>,
    pub blobs: Blobs,
    /// Where destinations are reached by MLLP over TLS.
    pub tls: Option<tls::Client>,
}

impl Preparer {
    /// Makes the HL7 message of a delivery ready.
    ///
    /// # Errors
    /// Only where store or blobs do not answer.
    pub(super) async fn message(&self, key: &DeliveryKey, delivery: &Delivery) -> Result<Ready<Hl7>, Error> {
        let parts = match self.prepare(key, delivery).await? {
            Ready::It(parts) => parts,
            Ready::Never(why) => return Ok(Ready::Never(why)),
            Ready::NotNow(why) => return Ok(Ready::NotNow(why)),
        };
        let (address, tls) = match (&parts.to.via, &self.tls) {
            (Via::Mllp(address), _) => (address.clone(), None),
            (Via::MllpOverTls(address), Some(tls)) => (address.clone(), Some(tls.clone())),
            (Via::MllpOverTls(_), None) => {
                return Ok(Ready::NotNow(
                    "MLLP over TLS needs certificates, which this process does not have".into(),
                ));
            }
            (Via::Grpc, _) => return Ok(Ready::NotNow("its receiver has to fetch it".to_owned())),
        };
        Ok(match parts.oru().build() {
            Ok(text) => Ready::It(Hl7 { text, address, tls }),
            Err(e) => Ready::Never(format!("no message can be made of the report: {e}")),
        })
    }

    /// Reads what a message is made of.
    ///
    /// # Errors
    /// As [`Preparer::message`].
    pub async fn prepare(&self, key: &DeliveryKey, delivery: &Delivery) -> Result<Ready<Parts>, Error> {
        let Some(to) = self.destination(&key.report.tenant, &key.destination) else {
            return Ok(Ready::NotNow(format!("destination {} is not registered", key.destination)));
        };
        let Some(report) = self.tables.load::<Report>(&key.report).await? else {
            return Ok(Ready::Never("the report's record is gone".to_owned()));
        };
        let report = report.record;
        let tenant = &key.report.tenant;
        let Some(seen) = report.studies.first() else {
            return Ok(Ready::Never("the report names no study".to_owned()));
        };
        let body_path = path::report(tenant, &key.report.read, &report.body);
        let manifest_path = path::manifest(tenant, &seen.study, seen.revision);
        let body = self.document(&body_path, Some(&report.body), "report body", ReportBody::decode).await?;
        let manifest = self.document(&manifest_path, None, "manifest", Manifest::decode).await?;
        let (body, manifest) = match (body, manifest) {
            (Ok(body), Ok(manifest)) => (body, manifest),
            (Err(why), _) | (_, Err(why)) => return Ok(Ready::Never(why)),
        };
        let (key, delivery, to) = (key.clone(), delivery.clone(), to.destination);
        Ok(Ready::It(Parts { key, delivery, report, body, manifest, to }))
    }

    /// A destination, where it is registered.
    pub fn destination(&self, tenant: &TenantId, to: &DestinationId) -> Option<Registered> {
        let key = RegistryKey { tenant: tenant.clone(), item: RegistryItem::Destination(to.clone()) };
        let entry = self.registry.get(&key)?;
        match &entry.record {
            Entry::Destination(destination) => {
                Some(Registered { destination: destination.clone(), changed: entry.mod_revision })
            }
            Entry::Site(_) | Entry::Reader(_) | Entry::Pool(_) | Entry::Ai(_) => None,
        }
    }

    /// A document, or in words why it cannot be used.
    async fn document<T, E: std::error::Error + 'static>(
        &self,
        path: &BlobPath,
        digest: Option<&Digest>,
        what: &str,
        decode: fn(&[u8]) -> Result<T, E>,
    ) -> Result<Result<T, String>, Error> {
        let read = match digest {
            Some(digest) => self.blobs.get_checked(path, digest).await,
            None => self.blobs.get(path).await,
        };
        match read {
            Ok(bytes) => Ok(decode(&bytes).map_err(|_| format!("the {what} in blobs cannot be understood"))),
            Err(e) if e.kind() == Kind::NotFound => Ok(Err(format!("the {what} is not in blobs"))),
            Err(e) if e.kind() == Kind::DataLoss => Ok(Err(format!("the {what} in blobs is damaged"))),
            Err(e) => Err(Error::Blobs(e)),
        }
    }
}

/// Sends a message over a connection of its own, which is closed when this returns or is dropped. Connecting and each
/// answer may take `wait`, all of it `left`.
pub(super) async fn exchange(message: &Hl7, message_id: &str, wait: Duration, left: Duration) -> Ended {
    let talk = async {
        let mut client = match &message.tls {
            None => Client::connect(&message.address, wait).await?,
            Some(tls) => Client::connect_tls(&message.address, tls, wait).await?,
        };
        let answer = client.send(&message.text, wait).await;
        if Verdict::of(&answer) == Verdict::CommitAccepted {
            return client.application_answer(message_id, wait).await;
        }
        answer
    };
    // What the claim rests on: it may have been made long after its time was reckoned.
    match timeout(left, talk).await {
        Ok(answer) => judge(&answer),
        Err(_) => Ended::NotNow("the claim's time ran out during the attempt".to_owned()),
    }
}

fn judge(answer: &Result<Ack, MllpError>) -> Ended {
    match (Verdict::of(answer), answer) {
        (Verdict::Accepted, _) => Ended::Accepted,
        (Verdict::DeadLetter(refusal), _) => Ended::Refused(refusal.to_string()),
        (Verdict::CommitAccepted, _) => {
            Ended::NotNow("receiver keeps the message, its application has not answered".to_owned())
        }
        (Verdict::Retry, Ok(ack)) => {
            let code = ack.errors.iter().find_map(|e| e.code);
            let code = code.map(|code| format!(", error {code}")).unwrap_or_default();
            Ended::NotNow(format!("receiver answered {}{code}", ack.code.as_str()))
        }
        (Verdict::Retry, Err(e)) => Ended::NotNow(shortened(&chain(e))),
    }
}

/// What errors of the connection say is about the connection, never about the message.
fn shortened(error: &str) -> String {
    error.chars().take(ERROR_LIMIT).collect()
}
