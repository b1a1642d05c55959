//! TLS on both sides of a connection: who we are, whom we believe, and the files that say so, read again when they
//! change.
//!
//! Versions 1.2 and 1.3 with the forward-secret AEAD suites of BCP 195 (RFC 9325) only. Callers present a certificate or
//! get no connection. Sessions are not resumed, so that every connection is judged by the certificates and the revocation
//! list of its own moment.

mod client;
mod files;
mod identity;
mod reload;

use std::{
    fmt, io,
    path::{Path, PathBuf},
    sync::Arc,
};

use isocenter_domain::{Kind, Kinded, Time};
use rustls::{
    ClientConfig, RootCertStore, ServerConfig,
    client::Resumption,
    crypto::{CryptoProvider, aws_lc_rs},
    pki_types::{CertificateDer, CertificateRevocationListDer, PrivateKeyDer, pem, pem::PemObject as _},
    server::{NoServerSessionStorage, WebPkiClientVerifier},
};
use serde::{Deserialize, Serialize};
use tokio::{
    io::{AsyncRead, AsyncWrite},
    sync::watch,
};
use tokio_rustls::TlsAcceptor;
pub use tokio_rustls::{client::TlsStream as ClientStream, server::TlsStream as ServerStream};

pub use client::{Client, ClientFiles, Undialable, channel};
pub use identity::{Certified, Unidentified};

use files::Contents;

/// The files of a process that speaks TLS; all in PEM. An empty path is an absent file.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Files {
    /// Our certificate and what leads from it to its authority, in that order. It is shown to callers and to servers that
    /// we call, so its extended key usage names both, and its subject is `O=<tenant>, OU=node, CN=<name>`.
    pub cert: PathBuf,
    /// The private key of `cert`.
    pub key: PathBuf,
    /// The authorities that callers' certificates lead to, and those of our other processes.
    pub client_ca: PathBuf,
    /// Revocation lists, one of each authority in a caller's chain but the root: where the file is given, a certificate whose
    /// authority has no list in it is refused. A list past its next update still holds.
    pub crl: PathBuf,
    /// The authorities of other servers that we call: vendors', collectors'. Those of `client_ca` where absent.
    pub server_ca: PathBuf,
}

impl Files {
    /// Whether TLS is asked for.
    #[must_use]
    pub fn is_set(&self) -> bool {
        *self != Self::default()
    }
}

/// Files that cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    /// A file that is needed is not named.
    #[error("tls.{0} is not set: TLS needs cert, key and client_ca")]
    Missing(&'static str),
    /// A file cannot be read.
    #[error("tls.{key} {}: cannot be read", path.display())]
    Unreadable {
        /// The setting.
        key: &'static str,
        /// The file.
        path: PathBuf,
        /// Why not.
        #[source]
        source: io::Error,
    },
    /// A file is not PEM, or has nothing of what it is for.
    #[error("tls.{key} {}: has no usable {what}", path.display())]
    Malformed {
        /// The setting.
        key: &'static str,
        /// The file.
        path: PathBuf,
        /// What was looked for.
        what: &'static str,
        /// What is wrong, where there is more to say.
        #[source]
        source: Option<pem::Error>,
    },
    /// The files do not go together.
    #[error("the files of tls do not go together: {0}")]
    Unusable(&'static str, #[source] Box<dyn std::error::Error + Send + Sync>),
}

impl Kinded for TlsError {
    fn kind(&self) -> Kind {
        Kind::Invalid
    }
}

/// What of a connection is spoken inside.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Protocol {
    /// HTTP/2 and HTTP/1.1, agreed on by ALPN.
    Http,
    /// DICOM, which has no ALPN name (PS3.15 §B.12).
    Dicom,
}

/// A handshake that came to nothing.
#[derive(Debug, thiserror::Error)]
#[error("the TLS handshake failed")]
pub struct HandshakeError(#[source] io::Error);

/// Our side of TLS. Clones are the same, and see the same files.
#[derive(Clone)]
pub struct Tls(Arc<Inner>);

struct Inner {
    files: Files,
    current: watch::Sender<Arc<Material>>,
}

impl fmt::Debug for Tls {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Tls").field("files", &self.0.files).finish_non_exhaustive()
    }
}

/// What the files say, ready to use.
pub(crate) struct Material {
    http: Arc<ServerConfig>,
    dicom: Arc<ServerConfig>,
    nodes: Arc<ClientConfig>,
    outside: Arc<ClientConfig>,
    /// Of every byte of every file.
    contents: [u8; 32],
    /// Of the files that say whom to believe.
    trust: [u8; 32],
    /// When our certificate ends.
    until: Time,
}

impl Tls {
    /// Reads the files.
    ///
    /// # Errors
    /// [`TlsError`], which names the setting and the file.
    pub fn load(files: &Files) -> Result<Self, TlsError> {
        let material = Material::of(files, &Contents::read(files)?)?;
        Ok(Self(Arc::new(Inner { files: files.clone(), current: watch::Sender::new(Arc::new(material)) })))
    }

    /// For calls to our other processes.
    #[must_use]
    pub fn nodes(&self) -> Client {
        Client::of(self.clone(), true)
    }

    /// For calls to others' servers.
    #[must_use]
    pub fn outside(&self) -> Client {
        Client::of(self.clone(), false)
    }

    /// When our own certificate ends.
    #[must_use]
    pub fn until(&self) -> Time {
        self.current().until
    }

    /// Takes a caller's handshake, and says who the certificate names. How long it may take is the caller's affair.
    ///
    /// # Errors
    /// [`HandshakeError`], also where the certificate is absent, not believed, revoked, or not valid now.
    pub async fn accept<S>(
        &self,
        protocol: Protocol,
        stream: S,
    ) -> Result<(ServerStream<S>, Result<Certified, Unidentified>), HandshakeError>
    where
        S: AsyncRead + AsyncWrite + Unpin,
    {
        let material = self.current();
        let config = match protocol {
            Protocol::Http => &material.http,
            Protocol::Dicom => &material.dicom,
        };
        let stream = TlsAcceptor::from(Arc::clone(config)).accept(stream).await.map_err(HandshakeError)?;
        let shown = stream.get_ref().1.peer_certificates().and_then(<[_]>::first);
        let certified = shown.ok_or(Unidentified::Absent).and_then(|certificate| identity::read(certificate));
        Ok((stream, certified))
    }

    /// Returns once other authorities or another revocation list hold than at the time of the call.
    pub fn distrusts(&self) -> impl Future<Output = ()> + Send + use<> {
        let mut current = self.0.current.subscribe();
        let trust = current.borrow_and_update().trust;
        async move {
            // The sender lives as long as the process listens; without it nothing changes any more.
            if current.wait_for(|material| material.trust != trust).await.is_err() {
                std::future::pending::<()>().await;
            }
        }
    }

    pub(crate) fn current(&self) -> Arc<Material> {
        Arc::clone(&self.0.current.borrow())
    }
}

impl Material {
    fn of(files: &Files, contents: &Contents) -> Result<Self, TlsError> {
        let unusable = |what| move |e: rustls::Error| TlsError::Unusable(what, Box::new(e));
        let chain = certificates("cert", &files.cert, &contents.cert)?;
        let key = private_key("key", &files.key, &contents.key)?;
        let ours = roots("client_ca", &files.client_ca, &contents.client_ca)?;
        let theirs = match &contents.server_ca {
            Some(bytes) => roots("server_ca", &files.server_ca, bytes)?,
            None => Arc::clone(&ours),
        };
        let mut verifier = WebPkiClientVerifier::builder_with_provider(Arc::clone(&ours), provider());
        if let Some(bytes) = &contents.crl {
            verifier = verifier.with_crls(revocations(&files.crl, bytes)?);
        }
        let verifier = verifier.build().map_err(|e| TlsError::Unusable("client_ca and crl", Box::new(e)))?;
        let until = identity::ends(&chain[0])
            .map_err(|e| TlsError::Unusable("our certificate cannot be read", Box::new(e)))?;

        let mut http = ServerConfig::builder_with_provider(provider())
            .with_safe_default_protocol_versions()
            .map_err(unusable("versions"))?
            .with_client_cert_verifier(verifier)
            .with_single_cert(chain.clone(), key.clone_key())
            .map_err(unusable("cert and key"))?;
        http.session_storage = Arc::new(NoServerSessionStorage {});
        http.send_tls13_tickets = 0;
        let dicom = http.clone();
        http.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];

        let client = |roots| client_config(roots, Some((chain.clone(), key.clone_key())));
        Ok(Self {
            http: Arc::new(http),
            dicom: Arc::new(dicom),
            nodes: client(ours)?,
            outside: client(theirs)?,
            contents: contents.digest(),
            trust: contents.trust(),
            until,
        })
    }
}

type Pair = (Vec<CertificateDer<'static>>, PrivateKeyDer<'static>);

/// A client that believes `roots` and shows `pair` where a server asks for it.
fn client_config(roots: Arc<RootCertStore>, pair: Option<Pair>) -> Result<Arc<ClientConfig>, TlsError> {
    let unusable = |what| move |e: rustls::Error| TlsError::Unusable(what, Box::new(e));
    let builder = ClientConfig::builder_with_provider(provider())
        .with_safe_default_protocol_versions()
        .map_err(unusable("versions"))?
        .with_root_certificates(roots);
    let mut config = match pair {
        Some((chain, key)) => builder.with_client_auth_cert(chain, key).map_err(unusable("cert and key"))?,
        None => builder.with_no_client_auth(),
    };
    config.alpn_protocols = vec![b"h2".to_vec()];
    config.resumption = Resumption::disabled();
    Ok(Arc::new(config))
}

fn provider() -> Arc<CryptoProvider> {
    Arc::new(aws_lc_rs::default_provider())
}

fn malformed<'a>(
    key: &'static str,
    path: &'a Path,
    what: &'static str,
) -> impl Fn(Option<pem::Error>) -> TlsError + 'a {
    move |source| TlsError::Malformed { key, path: path.to_owned(), what, source }
}

fn certificates(
    key: &'static str,
    path: &Path,
    bytes: &[u8],
) -> Result<Vec<CertificateDer<'static>>, TlsError> {
    let malformed = malformed(key, path, "certificate");
    let found: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(bytes).collect();
    let found = found.map_err(|e| malformed(Some(e)))?;
    if found.is_empty() { Err(malformed(None)) } else { Ok(found) }
}

fn private_key(key: &'static str, path: &Path, bytes: &[u8]) -> Result<PrivateKeyDer<'static>, TlsError> {
    PrivateKeyDer::from_pem_slice(bytes).map_err(|e| malformed(key, path, "private key")(Some(e)))
}

fn roots(key: &'static str, path: &Path, bytes: &[u8]) -> Result<Arc<RootCertStore>, TlsError> {
    let mut roots = RootCertStore::empty();
    for certificate in certificates(key, path, bytes)? {
        roots.add(certificate).map_err(|e| TlsError::Unusable("an authority cannot be used", Box::new(e)))?;
    }
    Ok(Arc::new(roots))
}

fn revocations(path: &Path, bytes: &[u8]) -> Result<Vec<CertificateRevocationListDer<'static>>, TlsError> {
    let malformed = malformed("crl", path, "revocation list");
    let found: Result<Vec<_>, _> = CertificateRevocationListDer::pem_slice_iter(bytes).collect();
    let found = found.map_err(|e| malformed(Some(e)))?;
    if found.is_empty() { Err(malformed(None)) } else { Ok(found) }
}
