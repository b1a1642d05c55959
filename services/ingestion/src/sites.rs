//! Which site an AE title belongs to.

use isocenter_domain::{
    id::{AeTitle, TenantId},
    key::RegistryItem,
    record::registry::Entry,
};
use isocenter_store::table::Mirror;

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
