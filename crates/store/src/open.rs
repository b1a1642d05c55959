//! The store's address, as operators write it.

use std::sync::Arc;

use crate::{
    Access, Error,
    embedded::{Embedded, EmbeddedOptions},
    etcd::{Etcd, EtcdOptions},
    kv::Kv,
};

/// Opens the store at an address: `embedded:/var/lib/isocenter/store` for a folder of this machine, or
/// `etcd://10.0.0.7:2379,10.0.0.8:2379` for a cluster.
///
/// # Errors
/// [`Error::InvalidAddress`] says what to write instead; otherwise as [`Embedded::open`] and [`Etcd::connect`].
pub async fn open(address: &str) -> Result<Arc<dyn Kv>, Error> {
    open_with(address, &Access::default()).await
}

/// As [`open`], for a cluster that wants to know who calls.
///
/// # Errors
/// As [`open`], and [`Error::Io`] where a file of `access` cannot be read.
pub async fn open_with(address: &str, access: &Access) -> Result<Arc<dyn Kv>, Error> {
    let invalid = |why: &str| Error::InvalidAddress { address: address.to_owned(), why: why.to_owned() };
    if let Some(dir) = address.strip_prefix("embedded:") {
        if dir.is_empty() {
            return Err(invalid("no folder is named; write embedded:/path/to/folder"));
        }
        if dir.starts_with("//") {
            return Err(invalid("a folder is not a host; write embedded:/path/to/folder, with one slash"));
        }
        return Ok(Arc::new(Embedded::open(EmbeddedOptions::new(dir)).await?));
    }
    if let Some(members) = address.strip_prefix("etcd://") {
        let members: Vec<_> = members.split(',').map(str::trim).collect();
        if let Some(bad) = members.iter().find(|m| !is_host_and_port(m)) {
            return Err(invalid(&format!(
                "\"{bad}\" is not host:port; write etcd://host:2379,host:2379,host:2379"
            )));
        }
        let options = EtcdOptions { access: access.clone(), ..EtcdOptions::new(members) };
        return Ok(Arc::new(Etcd::connect(options).await?));
    }
    Err(invalid("it begins with neither; write embedded:/path/to/folder or etcd://host:2379,host:2379"))
}

fn is_host_and_port(member: &str) -> bool {
    member.rsplit_once(':').is_some_and(|(host, port)| {
        !host.is_empty() && !host.contains('/') && port.parse::<u16>().is_ok_and(|port| port != 0)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_wrong_address_says_what_to_write() {
        for (address, hint) in [
            ("", "embedded:/path"),
            ("redis://x", "etcd://host:2379"),
            ("embedded:", "embedded:/path/to/folder"),
            ("embedded:///data", "one slash"),
            ("etcd://", "host:port"),
            ("etcd://a:2379,b", "\"b\" is not host:port"),
            ("etcd://http://a:2379", "is not host:port"),
            ("etcd://a:0", "is not host:port"),
        ] {
            let error = open(address).await.unwrap_err().to_string();
            assert!(error.contains(hint), "{address}: {error}");
        }
    }
}
