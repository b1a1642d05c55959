//! Connections of a port: so many in all and from each address, each with a handshake, an idle time and an age.

use std::{
    convert::Infallible,
    net::{IpAddr, SocketAddr},
    pin::{Pin, pin},
    sync::Arc,
    task::{Context, Poll},
    time::Duration,
};

use axum::{
    Router,
    body::{Body, Bytes, HttpBody},
    extract::Request,
};
use hyper::body::{Frame, Incoming, SizeHint};
use hyper_util::{
    rt::{TokioExecutor, TokioIo, TokioTimer},
    server::conn::auto::Builder,
};
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::{TcpListener, TcpStream},
    sync::watch,
    task::JoinSet,
    time::{sleep, timeout},
};
use tokio_util::sync::CancellationToken;
use tower::Service as _;

use super::limits::{Limits, Share, Shares};
use crate::{
    metrics::{IntCounterVec, IntGauge, IntGaugeVec, Metrics},
    principal::Caller,
    random,
    task::chain,
    tls::{Protocol, Tls},
};

/// How long accepting pauses after the system refused a socket, for want of file descriptors for example.
const PAUSE: Duration = Duration::from_millis(100);

/// A connection that is asked to end because its callers are judged anew has so long for calls under way.
const GRACE: Duration = Duration::from_secs(30);

/// One that was idle has so long to agree.
const FAREWELL: Duration = Duration::from_secs(5);

/// A sign of life is asked of a peer that often, and must come within the same time.
const KEEP_ALIVE: Duration = Duration::from_secs(20);

/// Bytes of one call, and of one connection, that wait for a handler.
const STREAM_WINDOW: u32 = 128 << 10;
const CONNECTION_WINDOW: u32 = 2 << 20;

/// Bytes of one call's answer that wait for the peer.
const SEND_BUFFER: usize = 256 << 10;

/// Calls that a peer took back before a handler saw them; one more ends the connection (CVE-2023-44487).
const TAKEN_BACK: usize = 20;

/// Bytes of an HTTP/1.1 call that wait to be understood; its headers must fit.
const HTTP1_BUFFER: usize = 32 << 10;

/// How the callers of a listener are known.
pub(super) enum Door {
    /// All are one.
    Open(Caller),
    /// By their certificates.
    Tls(Tls),
}

/// What accepting needs.
pub(super) struct Connections {
    door: Door,
    limits: Limits,
    router: Router,
    builder: Builder<TokioExecutor>,
    peers: Arc<Shares<IpAddr>>,
    meters: Meters,
}

/// What is counted, by port.
#[derive(Clone)]
pub(super) struct Meters {
    open: IntGaugeVec,
    ended: IntCounterVec,
    port: &'static str,
}

impl Meters {
    pub fn new(metrics: &Metrics) -> Self {
        let open = metrics.gauge_vec("connections", "Connections that are open.", &["port"]);
        let ended = metrics.counter_vec(
            "connections_total",
            "Connections that ended, by how: served, cut-off, no-handshake, too-many, too-many-of-peer.",
            &["port", "outcome"],
        );
        Self { open, ended, port: "main" }
    }

    pub fn of(&self, port: &'static str) -> Self {
        Self { port, ..self.clone() }
    }
}

impl Connections {
    pub fn new(door: Door, limits: Limits, router: Router, meters: Meters) -> Arc<Self> {
        let peers = Shares::new(limits.connections_per_peer);
        Arc::new(Self { door, builder: builder(&limits), limits, router, peers, meters })
    }

    /// Accepts until `stop` is cancelled; then asks every connection to end and returns when the last has.
    pub async fn serve(self: Arc<Self>, listener: TcpListener, stop: CancellationToken) {
        let mut tasks = JoinSet::new();
        loop {
            tokio::select! {
                biased;
                () = stop.cancelled() => break,
                Some(ended) = tasks.join_next(), if !tasks.is_empty() => log_panic(ended),
                accepted = listener.accept() => match accepted {
                    Ok((stream, peer)) => self.begin(&mut tasks, stream, peer, &stop),
                    Err(error) => {
                        tracing::warn!(%error, "cannot accept a connection");
                        sleep(PAUSE).await;
                    }
                },
            }
        }
        drop(listener);
        while let Some(ended) = tasks.join_next().await {
            log_panic(ended);
        }
    }

    /// Begins a connection, or drops it: a queue of connections would let whoever floods decide how long others wait.
    fn begin(
        self: &Arc<Self>,
        tasks: &mut JoinSet<()>,
        stream: TcpStream,
        peer: SocketAddr,
        stop: &CancellationToken,
    ) {
        if tasks.len() >= self.limits.connections {
            return self.ended("too-many");
        }
        let Some(place) = self.peers.take(&peer.ip().to_canonical()) else {
            return self.ended("too-many-of-peer");
        };
        // Answers are small and awaited: Nagle's algorithm would hold them back.
        if let Err(error) = stream.set_nodelay(true) {
            tracing::debug!(%error, "TCP_NODELAY not set");
        }
        let (this, stop) = (Arc::clone(self), stop.clone());
        tasks.spawn(async move { this.one(stream, peer, stop, place).await });
    }

    fn ended(&self, outcome: &str) {
        self.meters.ended.with_label_values(&[self.meters.port, outcome]).inc();
    }

    async fn one(&self, stream: TcpStream, peer: SocketAddr, stop: CancellationToken, _place: Share<IpAddr>) {
        let _open = Open::new(self.meters.open.with_label_values(&[self.meters.port]));
        let tls = match &self.door {
            Door::Open(caller) => {
                return self.talk(stream, caller.clone(), stop, std::future::pending()).await;
            }
            Door::Tls(tls) => tls,
        };
        let distrusted = tls.distrusts();
        let handshake = timeout(self.limits.handshake.0, tls.accept(Protocol::Http, stream));
        let handshake = tokio::select! {
            handshake = handshake => handshake,
            () = stop.cancelled() => return,
        };
        let why = match handshake {
            Ok(Ok((stream, certified))) => {
                let caller = certified.map_or_else(Caller::Nobody, Caller::Certified);
                return self.talk(stream, caller, stop, distrusted).await;
            }
            Ok(Err(error)) => chain(&error),
            Err(_) => "it took too long".to_owned(),
        };
        self.ended("no-handshake");
        tracing::info!(%peer, why, "connection refused");
    }

    async fn talk<S>(
        &self,
        stream: S,
        caller: Caller,
        stop: CancellationToken,
        distrusted: impl Future<Output = ()>,
    ) where
        S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    {
        let calls = Calls::default();
        let (router, counted) = (self.router.clone(), calls.clone());
        let service = hyper::service::service_fn(move |mut request: Request<Incoming>| {
            request.extensions_mut().insert(caller.clone());
            let call = counted.begin();
            let answer = router.clone().call(request);
            async move {
                let answer = answer.await?;
                Ok::<_, Infallible>(answer.map(|body| Counted { body, _call: call }))
            }
        });
        let connection = self.builder.serve_connection(TokioIo::new(stream), service);
        let mut connection = pin!(connection);
        let age = random::jitter(self.limits.age.0);
        let grace = tokio::select! {
            ended = connection.as_mut() => return self.done(ended),
            // The process's own drain bounds what is under way.
            () = stop.cancelled() => Duration::MAX,
            () = distrusted => GRACE,
            () = calls.idle(self.limits.idle.0) => FAREWELL,
            () = sleep(age) => age / 10,
        };
        connection.as_mut().graceful_shutdown();
        match timeout(grace, connection).await {
            Ok(ended) => self.done(ended),
            Err(_) => self.ended("cut-off"),
        }
    }

    fn done(&self, ended: Result<(), Box<dyn std::error::Error + Send + Sync>>) {
        self.ended("served");
        if let Err(error) = ended {
            tracing::debug!(error = chain(&*error), "connection ended");
        }
    }
}

fn builder(limits: &Limits) -> Builder<TokioExecutor> {
    let headers = u32::try_from(limits.headers.0).unwrap_or(u32::MAX);
    let mut builder = Builder::new(TokioExecutor::new());
    builder
        .http1()
        .timer(TokioTimer::new())
        .header_read_timeout(limits.handshake.0)
        .max_buf_size(HTTP1_BUFFER);
    builder
        .http2()
        .timer(TokioTimer::new())
        .max_concurrent_streams(limits.streams)
        .max_header_list_size(headers)
        .max_pending_accept_reset_streams(TAKEN_BACK)
        .initial_stream_window_size(STREAM_WINDOW)
        .initial_connection_window_size(CONNECTION_WINDOW)
        .max_send_buf_size(SEND_BUFFER)
        .keep_alive_interval(KEEP_ALIVE)
        .keep_alive_timeout(KEEP_ALIVE);
    builder
}

/// A connection's task ends by returning; a panic is a defect, and ends that connection only.
fn log_panic(ended: Result<(), tokio::task::JoinError>) {
    if let Err(error) = ended {
        tracing::error!(%error, "a connection's task panicked");
    }
}

/// Counts an open connection.
struct Open(IntGauge);

impl Open {
    fn new(gauge: IntGauge) -> Self {
        gauge.inc();
        Self(gauge)
    }
}

impl Drop for Open {
    fn drop(&mut self) {
        self.0.dec();
    }
}

/// How many calls of a connection are under way, until the last byte of their answers is sent.
#[derive(Clone)]
struct Calls(Arc<watch::Sender<usize>>);

impl Default for Calls {
    fn default() -> Self {
        Self(Arc::new(watch::Sender::new(0)))
    }
}

impl Calls {
    fn begin(&self) -> Call {
        self.0.send_modify(|calls| *calls += 1);
        Call(self.clone())
    }

    /// Returns once there was no call for `quiet`.
    async fn idle(&self, quiet: Duration) {
        let mut calls = self.0.subscribe();
        loop {
            // The sender is held by `self`, so that neither wait can fail.
            let waits = calls.wait_for(|calls| *calls == 0).await.map(|_| ());
            if waits.is_err() || timeout(quiet, calls.changed()).await.is_err() {
                return;
            }
        }
    }
}

/// A call under way.
struct Call(Calls);

impl Drop for Call {
    fn drop(&mut self) {
        self.0.0.send_modify(|calls| *calls -= 1);
    }
}

/// An answer that is under way until it is dropped.
struct Counted {
    body: Body,
    _call: Call,
}

impl HttpBody for Counted {
    type Data = Bytes;
    type Error = axum::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, axum::Error>>> {
        Pin::new(&mut self.body).poll_frame(cx)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}
