//! Accepts connections, one task each, and drains them.

use std::{io, net::SocketAddr, sync::Arc, time::Duration};

use tokio::{
    net::{TcpListener, TcpStream},
    sync::Semaphore,
    task::JoinSet,
    time::{sleep, timeout},
};
use tokio_util::sync::CancellationToken;

use super::{
    Config,
    association::{self, Acceptor},
};
use crate::StorageService;

/// How long accepting pauses after the system refused a socket, e.g. for want of file descriptors.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// How long, once the drain's bound has passed, the last associations have to take their abort.
const LAST_WORDS: Duration = Duration::from_secs(5);

/// A bound socket that is not served yet.
#[derive(Debug)]
pub struct Listener {
    config: Config,
    socket: TcpListener,
}

impl Listener {
    /// Binds the address of `config`.
    ///
    /// # Errors
    /// What the system says, e.g. that the address is in use.
    pub async fn bind(config: Config) -> io::Result<Self> {
        let socket = TcpListener::bind(config.bind).await?;
        Ok(Self { config, socket })
    }

    /// The address bound, with the port the system chose.
    ///
    /// # Errors
    /// What the system says.
    pub fn local_addr(&self) -> io::Result<SocketAddr> {
        self.socket.local_addr()
    }

    /// Serves associations until `drain` is cancelled and the last of them is over.
    ///
    /// From that cancellation on, new associations are rejected with "temporary congestion"; running ones go on until
    /// they are released, or aborted when [`Config::drain`] has passed.
    pub async fn run(self, service: Arc<dyn StorageService>, drain: CancellationToken) {
        let Self { config, socket } = self;
        // Connections that are not associations (yet, or any more) hold a task too. Beyond twice the bound further
        // ones wait in the system's backlog, so that a peer in excess still is told why, and a flood is not served.
        let most = config.max_associations.saturating_mul(2).max(2);
        let grace = config.drain;
        let stop = CancellationToken::new();
        let acceptor = Arc::new(Acceptor {
            places: Arc::new(Semaphore::new(config.max_associations)),
            config,
            service,
            drain: drain.clone(),
            stop: stop.clone(),
        });
        let deadline = async {
            drain.cancelled().await;
            sleep(grace).await;
        };
        tokio::pin!(deadline);
        let mut connections = JoinSet::new();
        loop {
            tokio::select! {
                accepted = socket.accept(), if connections.len() < most => match accepted {
                    Ok((stream, address)) => start(&mut connections, &acceptor, stream, address),
                    Err(error) => {
                        tracing::warn!(%error, "cannot accept a connection");
                        sleep(ACCEPT_PAUSE).await;
                    }
                },
                Some(ended) = connections.join_next(), if !connections.is_empty() => log_panic(ended),
                () = drain.cancelled(), if connections.is_empty() => break,
                () = &mut deadline => break,
            }
        }
        drop(socket);
        stop.cancel();
        let last = async {
            while let Some(ended) = connections.join_next().await {
                log_panic(ended);
            }
        };
        // A peer that reads nothing must not hold up the end; what it was sending is abandoned with its task.
        if timeout(LAST_WORDS, last).await.is_err() {
            tracing::warn!("associations that did not take their abort are dropped");
        }
    }
}

fn start(connections: &mut JoinSet<()>, acceptor: &Arc<Acceptor>, stream: TcpStream, address: SocketAddr) {
    // Answers are short and the peer waits for each; a failure to set this costs speed only.
    if let Err(error) = stream.set_nodelay(true) {
        tracing::debug!(%error, "cannot set TCP_NODELAY");
    }
    let acceptor = Arc::clone(acceptor);
    connections.spawn(async move { association::arrive(&acceptor, stream, address).await });
}

/// A connection's task ends by returning; a panic is a defect of ours or of the domain, and ends that one only.
fn log_panic(ended: Result<(), tokio::task::JoinError>) {
    if let Err(error) = ended {
        tracing::error!(%error, "an association's task panicked");
    }
}
