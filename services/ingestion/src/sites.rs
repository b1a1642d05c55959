//! Which site an AE title belongs to.

use isocenter_domain::{
    id::{AeTitle, SiteId, TenantId},
    key::{RegistryItem, RegistryKey},
    record::registry::Entry,
};
use isocenter_store::table::{Mirror, Mirrors};

use crate::spool::Origin;

/// Why no site is had.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum NoSite {
    /// No site lists the title.
    Unknown,
    /// More than one does: whose images they are cannot be told.
    Ambiguous,
}

/// The tenant and the site whose device calls as `calling`. Registries are small: every site is looked at.
pub(crate) fn find(registry: &Mirror<Entry>, calling: &AeTitle) -> Result<(TenantId, Origin), NoSite> {
    let mut found = None;
    for stored in registry.all() {
        let (RegistryItem::Site(id), Entry::Site(site)) = (&stored.key.item, &stored.record) else {
            continue;
        };
        if !site.ae_titles.contains(calling) {
            continue;
        }
        let origin = Origin { site: id.clone(), calling: calling.clone() };
        if found.replace((stored.key.tenant.clone(), origin)).is_some() {
            return Err(NoSite::Ambiguous);
        }
    }
    found.ok_or(NoSite::Unknown)
}

/// Who assigns the patient ids of a site's images that name no issuer. The registry must have been read.
pub(crate) fn authority(mirrors: &Mirrors, tenant: &TenantId, site: &SiteId) -> String {
    let key = RegistryKey { tenant: tenant.clone(), item: RegistryItem::Site(site.clone()) };
    match mirrors.of::<Entry>().get(&key).as_deref().map(|stored| &stored.record) {
        Some(Entry::Site(entry)) if !entry.authority.is_empty() => entry.authority.clone(),
        _ => site.to_string(),
    }
}
