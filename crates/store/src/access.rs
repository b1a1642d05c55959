//! With what a process shows a cluster's store who it is.

use std::path::PathBuf;

/// How a store is reached besides its address. An embedded store needs none of it.
///
/// The files are read when the store is opened, and again when a call has failed and one of them has changed since: renewed
/// certificates are taken up without a restart, at the latest when the members close the old connections.
#[derive(Clone, Debug, Default)]
pub struct Access {
    /// TLS; without it the connections are plain.
    pub tls: Option<TlsFiles>,
    /// etcd's own users; not needed where the client's certificate names one.
    pub login: Option<Login>,
    /// etcd's `--quota-backend-bytes`, for servers older than 3.6, which do not tell theirs; `None` is etcd's default, 2 GiB.
    pub quota_bytes: Option<u64>,
}

/// Files of certificates, each in PEM.
#[derive(Clone, Debug)]
pub struct TlsFiles {
    /// The authority that signed the members' certificates.
    pub ca: PathBuf,
    /// This client's certificate and its key.
    pub identity: Option<(PathBuf, PathBuf)>,
}

/// A user of the store.
#[derive(Clone, Debug)]
pub struct Login {
    /// Its name.
    pub user: String,
    /// A file with its password; white space at the end does not count.
    pub password_file: PathBuf,
}

impl Access {
    /// Every file that is read.
    pub(crate) fn files(&self) -> Vec<&PathBuf> {
        let identity = self.tls.iter().flat_map(|tls| &tls.identity).flat_map(|(cert, key)| [cert, key]);
        let login = self.login.iter().map(|login| &login.password_file);
        self.tls.iter().map(|tls| &tls.ca).chain(identity).chain(login).collect()
    }
}
