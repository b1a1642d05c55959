//! Which site an AE title belongs to: by the registry, and while that was never read since this start, by what the spool
//! remembers of it. So a node that is started while the store is away goes on receiving from the devices it knows.

use std::{sync::Arc, time::Duration};

use data_encoding::BASE32_NOPAD;
use futures::{FutureExt as _, StreamExt as _};
use isocenter_domain::{
    id::{AeTitle, SiteId, TenantId},
    key::{RegistryItem, RegistryKey},
    record::registry::Entry,
};
use isocenter_store::table::Mirrors;

use crate::{
    Error,
    mover::blocking,
    spool::{Origin, Spool},
};

/// How long an association waits for a registry that was never read; then the peer is told to try again.
const REGISTRY_WAIT: Duration = Duration::from_secs(5);

/// How often changes of the registry are remembered, at most: somebody who puts in fifty sites writes one file.
const GATHER: Duration = Duration::from_secs(1);

/// Why no site is had.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum NoSite {
    /// No site lists the title.
    Unknown,
    /// More than one does: whose images they are cannot be told.
    Ambiguous,
    /// The registry cannot be read, and nobody remembers the title.
    Unavailable,
}

/// A device: its AE title, and whose it is.
type Device = (AeTitle, TenantId, SiteId);

/// The sites as this node knows them. Clones are the same.
#[derive(Clone, Debug)]
pub(crate) struct Sites {
    mirrors: Mirrors,
    remembered: Arc<Vec<Device>>,
}

impl Sites {
    /// Reads what the spool remembers. Blocks.
    pub(crate) fn open(mirrors: Mirrors, spool: &Spool) -> Result<Self, Error> {
        Ok(Self { mirrors, remembered: Arc::new(parse(&spool.sites()?)) })
    }

    /// The tenant and the site whose device calls as `calling`. With a certificate the tenant is the one that it names, and only
    /// that one's sites count; without, the title alone says whose the images are, so that it must be of one site. Registries
    /// are small: every site is looked at.
    pub(crate) async fn find(
        &self,
        calling: &AeTitle,
        certified: Option<&TenantId>,
    ) -> Result<(TenantId, Origin), NoSite> {
        let registry = self.mirrors.of::<Entry>();
        if registry.synced().now_or_never().is_none() {
            match find(&self.remembered, calling, certified) {
                Err(NoSite::Unknown) => {}
                found => return found,
            }
            if tokio::time::timeout(REGISTRY_WAIT, registry.synced()).await.is_err() {
                return Err(NoSite::Unavailable);
            }
        }
        find(&devices(&self.mirrors), calling, certified)
    }
}

fn find(
    devices: &[Device],
    calling: &AeTitle,
    certified: Option<&TenantId>,
) -> Result<(TenantId, Origin), NoSite> {
    let admitted = |tenant: &TenantId| certified.is_none_or(|certified| certified == tenant);
    let mut found = devices.iter().filter(|(title, tenant, _)| title == calling && admitted(tenant));
    let Some((_, tenant, site)) = found.next() else { return Err(NoSite::Unknown) };
    if found.next().is_some() {
        return Err(NoSite::Ambiguous);
    }
    Ok((tenant.clone(), Origin { site: site.clone(), calling: calling.clone() }))
}

/// Every device of the registry.
fn devices(mirrors: &Mirrors) -> Vec<Device> {
    let mut devices = Vec::new();
    for stored in mirrors.of::<Entry>().all() {
        if let (RegistryItem::Site(id), Entry::Site(site)) = (&stored.key.item, &stored.record) {
            let tenant = &stored.key.tenant;
            devices.extend(site.ae_titles.iter().map(|title| (title.clone(), tenant.clone(), id.clone())));
        }
    }
    devices
}

/// Keeps the spool's memory as the registry is, for ever.
pub(crate) async fn remember(mirrors: Mirrors, spool: Spool) {
    let registry = mirrors.of::<Entry>();
    let mut last = None;
    loop {
        registry.synced().await;
        // First the changes, then the look: what changes between the two is in the changes.
        let mut changes = registry.changes();
        loop {
            let content = render(&devices(&mirrors));
            if last.as_ref() != Some(&content) {
                let (spool, text) = (spool.clone(), content.clone());
                match blocking(move || spool.remember_sites(text.as_bytes())).await {
                    Ok(Ok(())) => last = Some(content),
                    Ok(Err(error)) => tracing::warn!(%error, "the sites cannot be remembered in the spool"),
                    Err(_) => return,
                }
            }
            tokio::time::sleep(GATHER).await;
            if changes.next().await.is_none() {
                break;
            }
            while let Some(Some(_)) = changes.next().now_or_never() {}
        }
    }
}

/// A line for each device: tenant, site, and the AE title in base32, since that may hold anything.
fn render(devices: &[Device]) -> String {
    let mut lines: Vec<String> = devices
        .iter()
        .map(|(title, tenant, site)| {
            format!("{tenant} {site} {}\n", BASE32_NOPAD.encode(title.as_str().as_bytes()))
        })
        .collect();
    lines.sort();
    lines.concat()
}

/// Reads what [`render`] wrote. A line that is damaged is nobody's: its devices wait for the registry.
fn parse(content: &[u8]) -> Vec<Device> {
    let line = |line: &str| -> Option<Device> {
        let [tenant, site, title] = line.split(' ').collect::<Vec<_>>()[..] else { return None };
        let title = String::from_utf8(BASE32_NOPAD.decode(title.as_bytes()).ok()?).ok()?;
        Some((title.parse().ok()?, tenant.parse().ok()?, site.parse().ok()?))
    };
    String::from_utf8_lossy(content).lines().filter_map(line).collect()
}

/// Waits until the registry was read, so that what it says of a site holds from the first look after a start on.
pub(crate) async fn known(mirrors: &Mirrors) -> Result<(), Error> {
    let registry = mirrors.of::<Entry>();
    tokio::time::timeout(REGISTRY_WAIT, registry.synced()).await.map_err(|_| Error::Registry)
}

/// Who assigns the patient ids of a site's images that name no issuer. The registry must be [`known`].
pub(crate) fn authority(mirrors: &Mirrors, tenant: &TenantId, site: &SiteId) -> String {
    let key = RegistryKey { tenant: tenant.clone(), item: RegistryItem::Site(site.clone()) };
    match mirrors.of::<Entry>().get(&key).as_deref().map(|stored| &stored.record) {
        Some(Entry::Site(entry)) if !entry.authority.is_empty() => entry.authority.clone(),
        _ => site.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn device(title: &str, tenant: &str, site: &str) -> Device {
        (title.parse().unwrap(), tenant.parse().unwrap(), site.parse().unwrap())
    }

    #[test]
    fn what_is_remembered_is_what_was_known_and_damage_is_nobodys() {
        let known = [device("CT 1/_ x", "net", "north"), device("CT2", "net", "south")];
        let mut text = render(&known);
        assert_eq!(parse(text.as_bytes()), known);
        text.push_str("net north\nnet north !!\nhalf a li");
        assert_eq!(parse(text.as_bytes()), known);
        assert!(parse(b"").is_empty());
    }

    #[test]
    fn a_title_of_two_sites_is_nobodys() {
        let known =
            [device("CT1", "net", "north"), device("CT1", "other", "south"), device("CT2", "net", "south")];
        let called = |title: &str, tenant: Option<&str>| {
            let tenant = tenant.map(|tenant| tenant.parse().unwrap());
            find(&known, &title.parse().unwrap(), tenant.as_ref())
        };
        assert_eq!(called("CT1", None), Err(NoSite::Ambiguous));
        assert_eq!(called("CT3", None), Err(NoSite::Unknown));
        let (tenant, origin) = called("CT2", None).unwrap();
        assert_eq!((tenant.as_str(), origin.site.as_str()), ("net", "south"));
        // A certificate says whose the images are, and nobody sends in another tenant's name.
        assert_eq!(called("CT1", Some("other")).unwrap().0.as_str(), "other");
        assert_eq!(called("CT2", Some("other")), Err(NoSite::Unknown));
    }
}
