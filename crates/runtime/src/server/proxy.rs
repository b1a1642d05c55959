//! Calls of services that other processes serve, passed on as they come: headers, messages both ways, trailers.
//!
//! Nothing is read and nothing is kept: what waits is what the two connections' windows allow. A caller who goes away
//! takes the call along. Nothing is tried again, since nobody here knows what the call does.

use std::{fmt, sync::Arc};

use axum::{
    body::Body,
    extract::{Request, State},
    response::{IntoResponse as _, Response},
};
use http::{HeaderName, HeaderValue, StatusCode, Version, header};
use isocenter_domain::{Kind, Kinded, access::Principal};
use tonic::Status;
use tower::Service as _;

use super::guard::is_grpc;
use crate::{nodes::Nodes, status::Answer, task::chain};

/// Marks a call that a process passed on, so that it ends where the next one cannot answer it either.
const PASSED_ON: HeaderName = HeaderName::from_static("isocenter-passed-on");

/// What one connection says about itself, and not about the call (RFC 9113 §8.2.2).
const OF_CONNECTION: [HeaderName; 4] =
    [header::CONNECTION, header::TRANSFER_ENCODING, header::UPGRADE, HeaderName::from_static("keep-alive")];

/// Where a service is served.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Located {
    /// By a live process of the role, which is reached there: `host:port` or a URL.
    At {
        /// The role.
        role: &'static str,
        /// The address it advertises.
        address: String,
    },
    /// By the role, of which no process lives.
    Nowhere {
        /// The role.
        role: &'static str,
    },
    /// By none of our roles.
    Unknown,
}

/// Who serves what this process does not.
pub trait Directory: fmt::Debug + Send + Sync + 'static {
    /// Where `service`, such as `isocenter.v1.Archive`, is served by another process than this one. Asked once for each call,
    /// so that calls spread if the answers do.
    fn locate(&self, service: &str) -> Located;
}

/// The way to other processes.
#[derive(Clone, Debug, Default)]
pub struct Elsewhere {
    /// Who serves what; `None`: this process is the whole network.
    pub directory: Option<Arc<dyn Directory>>,
    /// The connections.
    pub nodes: Nodes,
}

/// Why a call was not passed on.
#[derive(Debug, thiserror::Error)]
enum Lost {
    #[error("no process of the role {0} is running; try again")]
    Nobody(&'static str),
    #[error("the process of the role {0} did not answer; try again")]
    Silent(&'static str),
}

impl Kinded for Lost {
    fn kind(&self) -> Kind {
        Kind::Unavailable
    }
}

/// The answer where no route is.
pub(super) async fn elsewhere(State(elsewhere): State<Elsewhere>, request: Request) -> Response {
    if !is_grpc(request.headers()) {
        return (StatusCode::NOT_FOUND, "nothing is served here\n").into_response();
    }
    let unknown = || Status::unimplemented("no such method is served here").into_http();
    let Some(directory) = &elsewhere.directory else { return unknown() };
    let service = request.uri().path().split('/').nth(1).unwrap_or_default();
    let (role, address) = match directory.locate(service) {
        Located::Unknown => return unknown(),
        Located::Nowhere { role } => return Answer::of(&Lost::Nobody(role)).status().into_http(),
        Located::At { role, address } => (role, address),
    };
    if request.headers().contains_key(PASSED_ON) {
        return Answer::of(&Lost::Nobody(role)).status().into_http();
    }
    match pass(&elsewhere.nodes, &address, request).await {
        Ok(response) => response,
        Err(error) => {
            tracing::warn!(role, address, error = chain(&*error), "a call could not be passed on");
            Answer::of(&Lost::Silent(role)).status().into_http()
        }
    }
}

async fn pass(
    nodes: &Nodes,
    address: &str,
    mut request: Request,
) -> Result<Response, Box<dyn std::error::Error + Send + Sync>> {
    let mut channel = nodes.channel(address)?;
    let principal = request.extensions_mut().remove::<Principal>();
    request.extensions_mut().clear();
    *request.version_mut() = Version::HTTP_2;
    let headers = request.headers_mut();
    for name in OF_CONNECTION {
        headers.remove(name);
    }
    headers.remove(header::HOST);
    headers.insert(PASSED_ON, HeaderValue::from_static("1"));
    if let Some(principal) = principal {
        nodes.on_behalf_of(&principal, headers);
    }
    std::future::poll_fn(|cx| channel.poll_ready(cx)).await?;
    let response = channel.call(request.map(tonic::body::Body::new)).await?;
    Ok(response.map(Body::new))
}
