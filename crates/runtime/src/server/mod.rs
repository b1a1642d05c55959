//! One port for gRPC, HTTP and `/metrics`; one for health.

mod guard;

use std::{
    io,
    net::{Ipv4Addr, SocketAddr},
    sync::Arc,
    time::Duration,
};

use axum::serve::ListenerExt as _;
use axum::{Router, extract::State, response::IntoResponse, routing::get};
use http::{StatusCode, header};
use isocenter_domain::{Kind, Kinded, id::TenantId};
use tokio::net::TcpListener;
use tonic::service::Routes;

use crate::{
    metrics::Metrics,
    principal::{Exposed, Identity},
    readiness::Readiness,
    task::Tasks,
};

/// Where to listen, and how much to take on.
#[derive(Clone, Debug)]
pub struct Options {
    /// gRPC, HTTP and `/metrics`. Port 0 takes a free one.
    pub listen: SocketAddr,
    /// `grpc.health.v1` and `/healthz`, plaintext, for probes; not more than they say is told there.
    pub health: SocketAddr,
    /// The tenant of callers on a plaintext loopback listener.
    pub tenant: TenantId,
    /// The longest a call may take to its answer, or to the first message of a streamed one. A caller may ask for
    /// less (`grpc-timeout`).
    pub timeout: Duration,
    /// How many calls may be unanswered at a time; more are refused with `RESOURCE_EXHAUSTED` or 503. Answers that
    /// stream on no longer count: each service bounds its own streams.
    pub max_in_flight: usize,
    /// The paths of calls that stream their request, such as `/isocenter.v1.Ingestion/UploadInstances`: the timeout is
    /// not for them.
    pub streaming: &'static [&'static str],
}

impl Options {
    /// Loopback, free ports, 30 s, 1,024 calls: what one role of a large network answers, and some 100 MB at worst.
    #[must_use]
    pub fn local(tenant: TenantId) -> Self {
        let free = SocketAddr::from((Ipv4Addr::LOCALHOST, 0));
        let timeout = Duration::from_secs(30);
        Self { listen: free, health: free, tenant, timeout, max_in_flight: 1_024, streaming: &[] }
    }
}

/// A server that cannot start.
#[derive(Debug, thiserror::Error)]
pub enum ServerError {
    /// The address cannot be bound.
    #[error("listen {address}: cannot be bound")]
    Bind {
        /// The address.
        address: SocketAddr,
        /// Why not.
        #[source]
        source: io::Error,
    },
    /// The address is reached by callers nobody could identify.
    #[error(transparent)]
    Exposed(#[from] Exposed),
}

impl Kinded for ServerError {
    fn kind(&self) -> Kind {
        match self {
            Self::Bind { .. } => Kind::Unavailable,
            Self::Exposed(e) => e.kind(),
        }
    }
}

/// What is served on the main port.
#[derive(Debug, Default)]
pub struct Served {
    /// The gRPC services.
    pub grpc: Routes,
    /// HTTP beside gRPC, without a fallback of its own.
    pub http: Router,
}

/// A server whose ports are bound and which does not answer yet.
#[derive(Debug)]
pub struct Bound {
    options: Options,
    identity: Identity,
    main: (TcpListener, SocketAddr),
    health: (TcpListener, SocketAddr),
}

/// Binds both ports. Bound first, reported next, served last: whoever reads the address can connect.
///
/// # Errors
/// [`ServerError`].
pub async fn bind(options: Options) -> Result<Bound, ServerError> {
    let main = listen(options.listen).await?;
    let identity = Identity::developer(main.1, options.tenant.clone())?;
    let health = listen(options.health).await?;
    Ok(Bound { options, identity, main, health })
}

async fn listen(address: SocketAddr) -> Result<(TcpListener, SocketAddr), ServerError> {
    let failed = |source| ServerError::Bind { address, source };
    let listener = TcpListener::bind(address).await.map_err(failed)?;
    let bound = listener.local_addr().map_err(failed)?;
    Ok((listener, bound))
}

impl Bound {
    /// The address of the main port.
    #[must_use]
    pub const fn address(&self) -> SocketAddr {
        self.main.1
    }

    /// The address of the health port.
    #[must_use]
    pub const fn health_address(&self) -> SocketAddr {
        self.health.1
    }

    /// Serves as an essential task of `tasks` until they are cancelled: then unready, no new connection, and calls
    /// under way finish, within the deadline of [`Tasks::drain`]. The health port answers to the end.
    pub fn serve(self, tasks: &Tasks, served: Served, metrics: &Metrics, readiness: &Readiness) {
        let health_routes = Routes::new(readiness.health(tasks)).into_axum_router();
        let health = health_routes.route("/healthz", get(healthz)).with_state(());
        let health = health.layer(axum::Extension(readiness.clone()));
        let guard = Arc::new(guard::Guard::new(self.identity, &self.options, metrics));
        let main = served
            .grpc
            .into_axum_router()
            .merge(served.http)
            .fallback(guard::nothing)
            .route("/healthz", get(healthz))
            .route("/metrics", get(render).with_state(metrics.clone()))
            .layer(axum::Extension(readiness.clone()))
            .layer(axum::middleware::from_fn_with_state(guard, guard::guard));
        tracing::info!(listen = %self.main.1, health = %self.health.1, "serving");
        let (ended, readiness) = (tasks.token(), readiness.clone());
        tasks.essential("server", async move {
            let stop = async move {
                ended.cancelled().await;
                readiness.drain();
            };
            let (answered, last) = tokio::sync::oneshot::channel::<()>();
            let main = async move {
                let result = run(self.main.0, main, stop).await;
                drop(answered);
                result
            };
            // The sender is only ever dropped: that is the signal.
            let health = run(self.health.0, health, async move { drop(last.await) });
            tokio::try_join!(main, health).map(|_| ())
        });
    }
}

async fn run(
    listener: TcpListener,
    router: Router,
    stop: impl Future<Output = ()> + Send + 'static,
) -> io::Result<()> {
    let listener = listener.tap_io(|stream| {
        // Answers are small and awaited: Nagle's algorithm would hold them back.
        if let Err(e) = stream.set_nodelay(true) {
            tracing::debug!(error = %e, "TCP_NODELAY not set");
        }
    });
    axum::serve(listener, router).with_graceful_shutdown(stop).await
}

async fn healthz(axum::Extension(readiness): axum::Extension<Readiness>) -> impl IntoResponse {
    let waiting = readiness.waiting();
    if waiting.is_empty() {
        return (StatusCode::OK, "ok\n".to_owned());
    }
    (StatusCode::SERVICE_UNAVAILABLE, format!("waiting for {}\n", waiting.join(", ")))
}

async fn render(State(metrics): State<Metrics>) -> axum::response::Response {
    match metrics.render() {
        Ok(text) => ([(header::CONTENT_TYPE, "text/plain; version=0.0.4")], text).into_response(),
        Err(e) => {
            tracing::error!(error = %e, "metrics cannot be written");
            StatusCode::INTERNAL_SERVER_ERROR.into_response()
        }
    }
}
