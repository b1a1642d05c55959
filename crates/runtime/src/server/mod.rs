//! One port for gRPC, HTTP and `/metrics`; one for health.
//!
//! The main port is TLS with certificates of both sides, or plaintext on loopback. Every call there has a principal,
//! reflection and `/metrics` included; probes, which have none, ask the health port.

mod connections;
mod guard;
mod limits;
mod proxy;

use std::{
    io,
    net::{Ipv4Addr, SocketAddr},
    sync::Arc,
    time::Duration,
};

use axum::{Router, extract::State, response::IntoResponse, routing::get};
use http::{StatusCode, header};
use isocenter_domain::{
    Kind, Kinded,
    access::{Action, Principal, authorize},
    id::TenantId,
};
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;
use tonic::service::Routes;

use crate::{
    metrics::Metrics,
    principal::{Caller, Exposed},
    readiness::Readiness,
    task::Tasks,
    tls::{Tls, Unidentified},
};
pub use limits::Limits;
pub use proxy::{Directory, Elsewhere, Located};

use connections::{Connections, Door, Meters};

/// Where to listen, and how much to take on.
#[derive(Clone, Debug)]
pub struct Options {
    /// gRPC, HTTP and `/metrics`. Port 0 takes a free one.
    pub listen: SocketAddr,
    /// `grpc.health.v1` and `/healthz`, plaintext, for probes; not more than they say is told there.
    pub health: SocketAddr,
    /// The tenant of callers on a plaintext loopback listener; with TLS it is in their certificates.
    pub tenant: TenantId,
    /// Our side of TLS on `listen`; `None`: plaintext, which only loopback may be.
    pub tls: Option<Tls>,
    /// How much to take on from whom.
    pub limits: Limits,
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
        Self {
            listen: free,
            health: free,
            tenant,
            tls: None,
            limits: Limits::default(),
            timeout,
            max_in_flight: 1_024,
            streaming: &[],
        }
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
    /// Who answers the calls of other services.
    pub elsewhere: Elsewhere,
}

/// A server whose ports are bound and which does not answer yet.
pub struct Bound {
    options: Options,
    door: Door,
    main: (TcpListener, SocketAddr),
    health: (Probes, SocketAddr),
}

/// The health port's state: probes are answered before the process can serve anything else.
enum Probes {
    Bound(TcpListener),
    Served {
        meters: Meters,
        /// Ends the health port, after the main one.
        last: CancellationToken,
    },
}

/// Binds both ports. Bound first, reported next, served last: whoever reads the address can connect.
///
/// # Errors
/// [`ServerError`].
pub async fn bind(options: Options) -> Result<Bound, ServerError> {
    let main = listen(options.listen).await?;
    let door = match &options.tls {
        Some(tls) => Door::Tls(tls.clone()),
        None => Door::Open(Caller::developer(main.1, options.tenant.clone())?),
    };
    let health = listen(options.health).await?;
    Ok(Bound { options, door, main, health: (Probes::Bound(health.0), health.1) })
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

    /// Answers probes from now on: what a process waits for at its start, its probes are told meanwhile. [`Bound::serve`]
    /// does it where it was not done.
    #[must_use]
    pub fn probes(self, tasks: &Tasks, metrics: &Metrics, readiness: &Readiness) -> Self {
        let listener = match self.health.0 {
            Probes::Bound(listener) => listener,
            served @ Probes::Served { .. } => return Self { health: (served, self.health.1), ..self },
        };
        let routes = Routes::new(readiness.health(tasks)).into_axum_router();
        let health = routes.route("/healthz", get(healthz)).with_state(());
        let health = health.layer(axum::Extension(readiness.clone()));
        let (meters, last) = (Meters::new(metrics), CancellationToken::new());
        let nobody = Door::Open(Caller::Nobody(Unidentified::Absent));
        let health = Connections::new(nobody, Limits::of_probes(), health, meters.of("health"));
        let stop = last.clone();
        tasks.background("probes", async move { health.serve(listener, stop).await });
        Self { health: (Probes::Served { meters, last }, self.health.1), ..self }
    }

    /// Serves as an essential task of `tasks` until they are cancelled: then unready, no new connection, and calls
    /// under way finish, within the deadline of [`Tasks::drain`]. The health port answers to the end.
    pub fn serve(self, tasks: &Tasks, served: Served, metrics: &Metrics, readiness: &Readiness) {
        let bound = self.probes(tasks, metrics, readiness);
        let Probes::Served { meters, last } = bound.health.0 else {
            unreachable!("probes are answered by now")
        };
        let guard = Arc::new(guard::Guard::new(&bound.options, metrics));
        let main = served
            .grpc
            .into_axum_router()
            .merge(served.http)
            .fallback(axum::routing::any(proxy::elsewhere).with_state(served.elsewhere))
            .route("/healthz", get(healthz))
            .route("/metrics", get(render).with_state(metrics.clone()))
            .layer(axum::Extension(readiness.clone()))
            .layer(axum::middleware::from_fn_with_state(guard, guard::guard));
        tracing::info!(listen = %bound.main.1, health = %bound.health.1, "serving");
        let main = Connections::new(bound.door, bound.options.limits, main, meters);
        let (ended, readiness) = (tasks.token(), readiness.clone());
        tasks.essential("server", async move {
            let stop = CancellationToken::new();
            let unready = async {
                ended.cancelled().await;
                readiness.drain();
                stop.cancel();
            };
            let main = async {
                main.serve(bound.main.0, stop.clone()).await;
                last.cancel();
            };
            tokio::join!(unready, main);
            Ok::<_, io::Error>(())
        });
    }
}

async fn healthz(axum::Extension(readiness): axum::Extension<Readiness>) -> impl IntoResponse {
    let waiting = readiness.waiting();
    if waiting.is_empty() {
        return (StatusCode::OK, "ok\n".to_owned());
    }
    (StatusCode::SERVICE_UNAVAILABLE, format!("waiting for {}\n", waiting.join(", ")))
}

async fn render(
    State(metrics): State<Metrics>,
    axum::Extension(principal): axum::Extension<Principal>,
) -> axum::response::Response {
    if let Err(denied) = authorize(&principal, &Action::Measure, &principal.tenant) {
        return (StatusCode::FORBIDDEN, format!("{denied}\n")).into_response();
    }
    match metrics.render() {
        Ok(text) => ([(header::CONTENT_TYPE, "text/plain; version=0.0.4")], text).into_response(),
        Err(e) => {
            tracing::error!(error = %e, "metrics cannot be written");
            StatusCode::INTERNAL_SERVER_ERROR.into_response()
        }
    }
}
