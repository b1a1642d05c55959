//! The members of a cluster: one is used until it fails, then the next.
//!
//! The client library's own balancing is not used: it goes on sending to members that are gone.

use std::{
    error::Error as _,
    future::Future,
    path::Path,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::{Duration, SystemTime},
};

use etcd_client::{Certificate, Client, ConnectOptions, Identity, TlsOptions};
use futures::future::join_all;
use parking_lot::{Mutex, RwLock};
use tokio::sync::OnceCell;

use super::EtcdOptions;
use crate::{Error, access::Access};

/// A member answers within this or is taken for gone; covers a leader's disk at its slowest.
pub(super) const CALL_TIMEOUT: Duration = Duration::from_secs(2);
const CONNECT_TIMEOUT: Duration = Duration::from_millis(500);
/// etcd ends connections that ping more often than every 5 s.
const KEEP_ALIVE: (Duration, Duration) = (Duration::from_secs(6), Duration::from_secs(2));

/// Two connections per member, so that a large catch-up of a watch does not delay calls.
struct Member {
    calls: Client,
    watches: Client,
    /// Set once both connections bear the user's token.
    admitted: OnceCell<()>,
}

/// The members, and the user as whom they are called.
struct Members {
    each: Vec<Member>,
    login: Option<(String, String)>,
}

/// When each of the files of an [`Access`] was written; `None` for one that cannot be looked at.
type Written = Vec<Option<SystemTime>>;

pub(super) struct Pool {
    endpoints: Vec<String>,
    access: Access,
    members: RwLock<Arc<Members>>,
    /// How the files were when they were last read.
    read: Mutex<Written>,
    current: AtomicUsize,
}

/// How a call failed.
#[derive(Debug)]
pub(super) enum Failure {
    /// The member cannot be reached: nothing was sent, or nothing was done.
    NotDone(String),
    /// The answer was lost.
    Unknown(String),
    /// The store refused; another member would too.
    Refused(Error),
}

impl Failure {
    /// As the outcome of a change.
    pub fn of_change(self) -> Error {
        match self {
            Self::NotDone(why) => Error::Unavailable { why },
            Self::Unknown(why) => Error::Ambiguous { why },
            Self::Refused(e) => e,
        }
    }

    /// As the outcome of a call that changes nothing, or nothing that matters.
    pub fn of_read(self) -> Error {
        match self {
            Self::NotDone(why) | Self::Unknown(why) => Error::Unavailable { why },
            Self::Refused(e) => e,
        }
    }
}

impl Members {
    /// Prepares the connections. They are made when first used.
    async fn new(endpoints: &[String], access: &Access) -> Result<Self, Error> {
        let mut connect = ConnectOptions::new()
            .with_connect_timeout(CONNECT_TIMEOUT)
            .with_keep_alive(KEEP_ALIVE.0, KEEP_ALIVE.1)
            .with_keep_alive_while_idle(true)
            .with_require_leader(true)
            .with_auto_token_refresh(access.login.is_some());
        if let Some(tls) = &access.tls {
            let mut client = TlsOptions::new().ca_certificate(Certificate::from_pem(read(&tls.ca).await?));
            if let Some((certificate, key)) = &tls.identity {
                client = client.identity(Identity::from_pem(read(certificate).await?, read(key).await?));
            }
            connect = connect.with_tls(client);
        }
        let mut login = None;
        if let Some(user) = &access.login {
            let password = String::from_utf8_lossy(&read(&user.password_file).await?).trim_end().to_owned();
            login = Some((user.user.clone(), password));
        }
        let mut each = Vec::with_capacity(endpoints.len());
        for endpoint in endpoints {
            let client = || async {
                Client::connect([endpoint], Some(connect.clone())).await.map_err(|e| Error::InvalidAddress {
                    address: endpoint.clone(),
                    why: format!(
                        "{e}; write host:port, for example 10.0.0.7:2379, and certificates and keys in PEM"
                    ),
                })
            };
            each.push(Member { calls: client().await?, watches: client().await?, admitted: OnceCell::new() });
        }
        Ok(Self { each, login })
    }

    /// Makes sure that the member knows who calls. Not done when the connections are prepared: the cluster may be away then.
    async fn admit(&self, member: &Member) -> Result<(), etcd_client::Error> {
        let Some(login) = &self.login else { return Ok(()) };
        let admit = || async {
            // The library's handles share what they know of the user.
            member.calls.clone().update_user(Some(login.clone())).await?;
            member.watches.clone().update_user(Some(login.clone())).await
        };
        member.admitted.get_or_try_init(admit).await.map(|_| ())
    }
}

async fn read(path: &Path) -> Result<Vec<u8>, Error> {
    tokio::fs::read(path).await.map_err(Error::io("reading", path))
}

async fn written(access: &Access) -> Written {
    let look = |path| async move { tokio::fs::metadata(path).await.and_then(|file| file.modified()).ok() };
    join_all(access.files().into_iter().map(look)).await
}

impl Pool {
    /// Prepares the connections. They are made when first used.
    pub async fn new(options: &EtcdOptions) -> Result<Self, Error> {
        let (endpoints, access) = (options.endpoints.clone(), options.access.clone());
        if endpoints.is_empty() {
            return Err(Error::InvalidAddress {
                address: String::new(),
                why: "no member is named; write etcd://host:port,host:port".to_owned(),
            });
        }
        let read = Mutex::new(written(&access).await);
        let members = RwLock::new(Arc::new(Members::new(&endpoints, &access).await?));
        Ok(Self { endpoints, access, members, read, current: AtomicUsize::new(0) })
    }

    /// Reads certificates and the password again, where one has changed since they were read. Connections that exist go on.
    async fn renew(&self) {
        let now = written(&self.access).await;
        if *self.read.lock() == now {
            return;
        }
        match Members::new(&self.endpoints, &self.access).await {
            Ok(members) => {
                *self.members.write() = Arc::new(members);
                *self.read.lock() = now;
                tracing::info!("the store's certificates or password have changed; connects anew");
            }
            // Perhaps half of the files are written. The next failure looks again.
            Err(error) => {
                tracing::warn!(%error, "the store's changed certificates or password are of no use")
            }
        }
    }

    /// Calls every member, and answers what those said that answered.
    pub async fn each<T, F>(&self, call: impl Fn(Client) -> F) -> Vec<T>
    where
        F: Future<Output = Result<T, etcd_client::Error>>,
    {
        let indices = 0..self.endpoints.len();
        let answers = join_all(indices.map(|index| self.attempt(index, |member| call(member.calls.clone()))));
        answers.await.into_iter().filter_map(Result::ok).collect()
    }

    /// Calls the current member, once; on a failure of the member the next call goes to the next.
    pub async fn once<T, F>(&self, call: impl Fn(Client) -> F) -> Result<T, Failure>
    where
        F: Future<Output = Result<T, etcd_client::Error>>,
    {
        let index = self.current.load(Ordering::Relaxed);
        self.attempt(index, |member| call(member.calls.clone())).await
    }

    /// Calls members, from the current one on, until one does it or may have done it.
    pub async fn change<T, F>(&self, call: impl Fn(Client) -> F) -> Result<T, Error>
    where
        F: Future<Output = Result<T, etcd_client::Error>>,
    {
        let mut last = None;
        for _ in 0..self.endpoints.len() {
            match self.once(&call).await {
                Err(Failure::NotDone(why)) => last = Some(why),
                other => return other.map_err(Failure::of_change),
            }
        }
        Err(Error::unavailable(last.unwrap_or_default()))
    }

    /// Calls members, from the current one on, until one answers. For calls that may be made twice.
    pub async fn repeat<T, F>(&self, call: impl Fn(Client) -> F) -> Result<T, Error>
    where
        F: Future<Output = Result<T, etcd_client::Error>>,
    {
        let mut last = None;
        for _ in 0..self.endpoints.len() {
            match self.once(&call).await {
                Err(Failure::NotDone(why) | Failure::Unknown(why)) => last = Some(why),
                other => return other.map_err(Failure::of_read),
            }
        }
        Err(Error::unavailable(last.unwrap_or_default()))
    }

    /// Opens a stream at the current member through its own connection. Only the opening has a time limit.
    pub async fn open<T, F>(&self, call: impl Fn(Client) -> F) -> Result<(usize, T), Error>
    where
        F: Future<Output = Result<T, etcd_client::Error>>,
    {
        let index = self.current.load(Ordering::Relaxed);
        let opened = self.attempt(index, |member| call(member.watches.clone())).await;
        opened.map(|stream| (index, stream)).map_err(Failure::of_read)
    }

    async fn attempt<T, F>(&self, index: usize, call: impl FnOnce(&Member) -> F) -> Result<T, Failure>
    where
        F: Future<Output = Result<T, etcd_client::Error>>,
    {
        let members = Arc::clone(&self.members.read());
        let member = &members.each[index];
        // Until the member knows the user, nothing was asked of it.
        let failure = match tokio::time::timeout(CALL_TIMEOUT, members.admit(member)).await {
            Ok(Ok(())) => match tokio::time::timeout(CALL_TIMEOUT, call(member)).await {
                Ok(Ok(answer)) => return Ok(answer),
                Ok(Err(e)) => failure(e),
                Err(_) => Failure::Unknown("no answer in time".to_owned()),
            },
            Ok(Err(e)) => match failure(e) {
                Failure::Unknown(why) => Failure::NotDone(why),
                failure => failure,
            },
            Err(_) => Failure::NotDone("no answer in time".to_owned()),
        };
        let refused = matches!(failure, Failure::Refused(_));
        if !refused {
            self.leave(index);
        }
        if !refused || matches!(failure, Failure::Refused(Error::Denied { .. })) {
            self.renew().await;
        }
        Err(failure)
    }

    /// Turns to the next member, unless somebody did already.
    pub fn leave(&self, index: usize) {
        let next = (index + 1) % self.endpoints.len();
        // A lost race means that another call turned away first, which is what is wanted.
        self.current.compare_exchange(index, next, Ordering::Relaxed, Ordering::Relaxed).ok();
    }
}

/// What an error of the client library says about the call.
fn failure(e: etcd_client::Error) -> Failure {
    use etcd_client::Error as E;
    match e {
        E::GRpcStatus(status) => of_status(&status),
        E::LeaseKeepAliveError(why) if why == "lease not found" => Failure::Refused(Error::LeaseExpired),
        E::InvalidArgs(_) | E::InvalidUri(_) | E::InvalidMetadataValue(_) | E::Utf8Error(_) => {
            Failure::Refused(Error::Protocol { why: e.to_string() })
        }
        other => Failure::Unknown(other.to_string()),
    }
}

fn of_status(status: &tonic::Status) -> Failure {
    use tonic::Code;
    let why = status.message();
    let is = |text: &str| why.contains(text);
    let refused = match status.code() {
        Code::OutOfRange if is("has been compacted") => Error::Compacted { at: crate::Revision(0) },
        Code::OutOfRange if is("future revision") => {
            Error::FutureRevision { asked: crate::Revision(0), at: crate::Revision(0) }
        }
        Code::NotFound if is("lease not found") => Error::LeaseExpired,
        Code::ResourceExhausted if is("database space exceeded") => Error::NoSpace,
        // etcd says of a wrong password that the argument is invalid.
        Code::InvalidArgument if is("authentication failed") => Error::Denied { why: why.to_owned() },
        Code::PermissionDenied | Code::Unauthenticated => Error::Denied { why: why.to_owned() },
        Code::InvalidArgument if is("duplicate key") => Error::DuplicateKey,
        Code::InvalidArgument | Code::FailedPrecondition | Code::Unimplemented | Code::OutOfRange => {
            Error::Protocol { why: why.to_owned() }
        }
        // "no leader" and "too many requests" are said before anything is proposed; a connection that was never made
        // carried nothing. Everything else may have been done: timeouts, a changed leader, a cut connection.
        Code::Unavailable if is("no leader") || never_connected(status) => {
            return Failure::NotDone(why.to_owned());
        }
        Code::ResourceExhausted if is("too many requests") => return Failure::NotDone(why.to_owned()),
        _ => return Failure::Unknown(why.to_owned()),
    };
    Failure::Refused(refused)
}

fn never_connected(status: &tonic::Status) -> bool {
    let mut source = status.source();
    while let Some(e) = source {
        if e.is::<tonic::ConnectError>() {
            return true;
        }
        source = e.source();
    }
    false
}
