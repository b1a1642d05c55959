//! Operators' verbs. All but `simulate` speak gRPC to a server, never to the store.

pub mod ai;
pub mod delivery;
pub mod operations;
pub mod policy;
mod pool;
pub mod read;
pub mod reconcile;
pub mod records;
pub mod registry;
mod replay_log;
pub mod restore;
mod roster;
pub mod simulate;
pub mod study;

use std::path::PathBuf;

use anyhow::Result;
use isocenter_runtime::tls::{self, ClientFiles};
use tonic::transport::{Channel, Endpoint};

use crate::cli::Client;

/// A connection to the server.
pub async fn connect(client: &Client) -> Result<Channel> {
    if client.server.starts_with("https://") {
        let given = |file: &Option<PathBuf>| file.clone().unwrap_or_default();
        let files = ClientFiles {
            ca: given(&client.tls_ca),
            cert: given(&client.tls_cert),
            key: given(&client.tls_key),
        };
        let tls = tls::Client::load(&files)?;
        return Ok(tls::channel(&client.server, Some(&tls))?);
    }
    Ok(Endpoint::from_shared(client.server.clone())?
        .connect_timeout(std::time::Duration::from_secs(5))
        .connect()
        .await?)
}

/// Every item of a list that is answered in pages. `page` gets a page token, empty for the first page, and answers the
/// page's items and the next token.
pub async fn pages<T, Fut>(mut page: impl FnMut(String) -> Fut) -> Result<Vec<T>>
where
    Fut: Future<Output = Result<(Vec<T>, String), tonic::Status>>,
{
    let mut all = Vec::new();
    let mut token = String::new();
    loop {
        let (items, next) = page(token).await?;
        all.extend(items);
        if next.is_empty() {
            return Ok(all);
        }
        token = next;
    }
}

/// A request id: drawn once per command, so that what the command line repeats is one request.
pub fn request_id() -> String {
    isocenter_runtime::random::uuid_v7().to_string()
}
