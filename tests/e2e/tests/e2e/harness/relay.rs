//! One address for a server that is started again and again, each time on a free port.

use std::{net::SocketAddr, sync::Arc};

use isocenter_peers::LOOPBACK;
use isocenter_runtime::task::Tasks;
use tokio::{
    net::{TcpListener, TcpStream},
    sync::watch,
};

/// Passes connections on to where the server is now; where there is none it closes them.
#[derive(Clone, Debug)]
pub struct Relay {
    address: SocketAddr,
    to: Arc<watch::Sender<Option<SocketAddr>>>,
}

impl Relay {
    /// Listens until `tasks` are cancelled.
    pub async fn start(tasks: &Tasks) -> Self {
        let listener = TcpListener::bind(LOOPBACK).await.unwrap();
        let address = listener.local_addr().unwrap();
        let to = Arc::new(watch::Sender::new(None));
        let (group, current) = (tasks.clone(), Arc::clone(&to));
        tasks.background("relay", async move {
            while let Ok((stream, _)) = listener.accept().await {
                let to = *current.borrow();
                group.background("relayed connection", async move {
                    // Either end may vanish at any moment; that is what the relay is for.
                    drop(pass(stream, to).await);
                });
            }
        });
        Self { address, to }
    }

    /// Where it listens, as a URL.
    pub fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    /// New connections go there from now on.
    pub fn point(&self, to: Option<SocketAddr>) {
        self.to.send_replace(to);
    }
}

async fn pass(mut from: TcpStream, to: Option<SocketAddr>) -> std::io::Result<()> {
    let Some(to) = to else { return Ok(()) };
    let mut to = TcpStream::connect(to).await?;
    tokio::io::copy_bidirectional(&mut from, &mut to).await?;
    Ok(())
}
