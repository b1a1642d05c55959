//! Calling others: one connection of gRPC, lazily made, with our certificate where the address says `https`.

use std::{fmt, io, path::PathBuf, sync::Arc, time::Duration};

use http::Uri;
use hyper_util::rt::TokioIo;
use isocenter_domain::{Kind, Kinded};
use rustls::{ClientConfig, pki_types::ServerName};
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::TcpStream,
    time::timeout,
};
use tokio_rustls::TlsConnector;
use tonic::transport::{Channel, Endpoint};

use super::{ClientStream, Tls, TlsError, certificates, client_config, files, private_key, roots};

/// How long a connection may take to come about, TLS included.
const CONNECT: Duration = Duration::from_secs(5);

/// A call under way without a sign of the server for that long asks for one, and has this long again to get it.
const KEEP_ALIVE: Duration = Duration::from_secs(20);

/// What one answer may have waiting to be read, and all of one connection: a caller who does not read holds up nobody but
/// themselves until 64 of them do not.
const STREAM_WINDOW: u32 = 256 << 10;
const CONNECTION_WINDOW: u32 = 16 << 20;

/// What a client that is not a process of ours shows and believes; PEM. An empty path is an absent file.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ClientFiles {
    /// The authorities of the server.
    pub ca: PathBuf,
    /// Our certificate and what leads from it to its authority.
    pub cert: PathBuf,
    /// The private key of `cert`.
    pub key: PathBuf,
}

/// The calling side of TLS.
#[derive(Clone)]
pub struct Client(Source);

#[derive(Clone)]
enum Source {
    /// Follows the files of the process.
    Process {
        tls: Tls,
        nodes: bool,
    },
    Fixed(Arc<ClientConfig>),
}

impl fmt::Debug for Client {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Client")
    }
}

/// An address that cannot be called.
#[derive(Debug, thiserror::Error)]
pub enum Undialable {
    /// It is none.
    #[error("{0:?} is no address: write http://host:port or https://host:port")]
    Address(String),
    /// It asks for TLS, which is not set up.
    #[error("{0}: https needs certificates, which this process does not have")]
    NoTls(String),
}

impl Kinded for Undialable {
    fn kind(&self) -> Kind {
        Kind::Invalid
    }
}

impl Client {
    pub(super) const fn of(tls: Tls, nodes: bool) -> Self {
        Self(Source::Process { tls, nodes })
    }

    /// A client with files of its own, read once: a command.
    ///
    /// # Errors
    /// [`TlsError`].
    pub fn load(client: &ClientFiles) -> Result<Self, TlsError> {
        let roots = roots("ca", &client.ca, &files::needed("ca", &client.ca)?)?;
        let pair = match files::optional("cert", &client.cert)? {
            None => None,
            Some(cert) => {
                let key = files::needed("key", &client.key)?;
                let chain = certificates("cert", &client.cert, &cert)?;
                Some((chain, private_key("key", &client.key, &key)?))
            }
        };
        Ok(Self(Source::Fixed(client_config(roots, pair)?)))
    }

    fn config(&self) -> Arc<ClientConfig> {
        match &self.0 {
            Source::Process { tls, nodes: true } => Arc::clone(&tls.current().nodes),
            Source::Process { tls, nodes: false } => Arc::clone(&tls.current().outside),
            Source::Fixed(config) => Arc::clone(config),
        }
    }

    /// Does our part of the handshake with `host`, which the server's certificate must name.
    ///
    /// # Errors
    /// Where `host` is no name, and what the handshake says.
    pub async fn connect<S>(&self, host: &str, stream: S) -> io::Result<ClientStream<S>>
    where
        S: AsyncRead + AsyncWrite + Unpin,
    {
        let host = host.trim_start_matches('[').trim_end_matches(']').to_owned();
        let name = ServerName::try_from(host).map_err(io::Error::other)?;
        TlsConnector::from(self.config()).connect(name, stream).await
    }

    /// As [`Client::connect`], for a protocol without an ALPN name, such as DICOM.
    ///
    /// # Errors
    /// As there.
    pub async fn connect_plain<S>(&self, host: &str, stream: S) -> io::Result<ClientStream<S>>
    where
        S: AsyncRead + AsyncWrite + Unpin,
    {
        let host = host.trim_start_matches('[').trim_end_matches(']').to_owned();
        let name = ServerName::try_from(host).map_err(io::Error::other)?;
        let mut config = ClientConfig::clone(&self.config());
        config.alpn_protocols.clear();
        TlsConnector::from(Arc::new(config)).connect(name, stream).await
    }
}

/// A connection of gRPC to `url`, made when it is first used and again when it is lost. With `https` it takes `client`, whose
/// certificate and authorities are those of the moment in which it connects. At most 1,024 calls wait for it.
///
/// # Errors
/// [`Undialable`].
pub fn channel(url: &str, client: Option<&Client>) -> Result<Channel, Undialable> {
    let bad = || Undialable::Address(url.to_owned());
    let uri: Uri = url.parse().map_err(|_| bad())?;
    let host = uri.host().ok_or_else(bad)?.to_owned();
    let (port, client) = match uri.scheme_str() {
        Some("http") => (80, None),
        Some("https") => (443, Some(client.cloned().ok_or_else(|| Undialable::NoTls(url.to_owned()))?)),
        _ => return Err(bad()),
    };
    let port = uri.port_u16().unwrap_or(port);
    let authority = uri.authority().ok_or_else(bad)?.as_str();
    // The library does TLS itself where it sees the scheme; it would neither read files again nor take ours.
    let endpoint = Endpoint::from_shared(format!("http://{authority}")).map_err(|_| bad())?;
    let endpoint = endpoint
        .origin(uri)
        .http2_keep_alive_interval(KEEP_ALIVE)
        .keep_alive_timeout(KEEP_ALIVE)
        .initial_stream_window_size(STREAM_WINDOW)
        .initial_connection_window_size(CONNECTION_WINDOW);
    let connector = tower::service_fn(move |_: Uri| {
        let (host, client) = (host.clone(), client.clone());
        async move { timeout(CONNECT, connect(&host, port, client)).await? }
    });
    Ok(endpoint.connect_with_connector_lazy(connector))
}

/// A connection of either kind.
pub(crate) trait Duplex: AsyncRead + AsyncWrite + Unpin + Send {}

impl<S: AsyncRead + AsyncWrite + Unpin + Send> Duplex for S {}

async fn connect(host: &str, port: u16, client: Option<Client>) -> io::Result<TokioIo<Box<dyn Duplex>>> {
    let name = host.trim_start_matches('[').trim_end_matches(']');
    let stream = TcpStream::connect((name, port)).await?;
    stream.set_nodelay(true)?;
    Ok(TokioIo::new(match client {
        None => Box::new(stream),
        Some(client) => Box::new(client.connect(name, stream).await?),
    }))
}
