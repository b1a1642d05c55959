//! A TCP proxy between two programs: it slows, holds up and cuts a connection, loses answers, and spreads connections over
//! whatever is up. For partitions where network namespaces are not allowed, and for faults that no partition makes.

use std::{io, net::SocketAddr, sync::Arc, time::Duration};

use isocenter_runtime::task::Tasks;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{
        TcpListener, TcpStream,
        tcp::{OwnedReadHalf, OwnedWriteHalf},
    },
    sync::watch,
};

/// What is read at once.
const CHUNK: usize = 64 << 10;
/// How long a target may take to accept before the next one is tried.
const CONNECT: Duration = Duration::from_secs(1);

/// How a proxy treats what passes through it, connections that exist included.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Link {
    /// Passes everything on.
    #[default]
    Open,
    /// Passes everything on, each piece this much later.
    Slow(Duration),
    /// Passes nothing on; connections stay open and new ones are accepted, as by a router that drops packets.
    Held,
    /// Ends every connection and each new one at once, as by a router that rejects.
    Cut,
    /// Passes requests on; the first byte of an answer ends its connection, so that what was done is not known.
    Deaf,
}

#[derive(Clone, Debug, Default)]
struct State {
    link: Link,
    targets: Vec<SocketAddr>,
}

/// A listening proxy. Dropping the handle stops nothing: the task group does.
#[derive(Clone, Debug)]
pub struct Proxy {
    address: SocketAddr,
    state: Arc<watch::Sender<State>>,
}

impl Proxy {
    /// Listens at a free port of 127.0.0.1, until `tasks` are cancelled, for connections to `targets`: each goes to the next of them
    /// that accepts. Where there is none it is closed.
    ///
    /// # Errors
    /// If no port can be had.
    pub async fn start(targets: Vec<SocketAddr>, tasks: &Tasks) -> io::Result<Self> {
        let listener = TcpListener::bind("127.0.0.1:0").await?;
        let address = listener.local_addr()?;
        let state = Arc::new(watch::Sender::new(State { link: Link::Open, targets }));
        let (group, current, stop) = (tasks.clone(), Arc::clone(&state), tasks.token());
        tasks.background("proxy", async move {
            let mut turn = 0_usize;
            loop {
                let accepted = tokio::select! {
                    () = stop.cancelled() => return,
                    accepted = listener.accept() => accepted,
                };
                let Ok((client, _)) = accepted else { continue };
                turn = turn.wrapping_add(1);
                let (state, stop) = (current.subscribe(), stop.clone());
                group.background("proxied connection", async move {
                    tokio::select! {
                        () = stop.cancelled() => {}
                        () = connection(client, state, turn) => {}
                    }
                });
            }
        });
        Ok(Self { address, state })
    }

    /// Where it listens.
    #[must_use]
    pub const fn address(&self) -> SocketAddr {
        self.address
    }

    /// Treats everything so from now on.
    pub fn set(&self, link: Link) {
        self.state.send_modify(|state| state.link = link);
    }

    /// New connections go to these from now on; those that exist stay where they are.
    pub fn point(&self, targets: Vec<SocketAddr>) {
        self.state.send_if_modified(|state| {
            let differs = state.targets != targets;
            state.targets = targets;
            differs
        });
    }
}

async fn connection(client: TcpStream, mut state: watch::Receiver<State>, turn: usize) {
    // The sender lives in the accepting task, which outlives no connection: an error means that all is over.
    let Ok(now) = state.wait_for(|state| state.link != Link::Held).await.map(|state| state.clone()) else {
        return;
    };
    if now.link == Link::Cut {
        return;
    }
    let count = now.targets.len();
    let mut server = None;
    for n in 0..count {
        let target = now.targets[(turn + n) % count];
        if let Ok(Ok(stream)) = tokio::time::timeout(CONNECT, TcpStream::connect(target)).await {
            server = Some(stream);
            break;
        }
    }
    let Some(server) = server else { return };
    // Small requests and answers would wait for one another.
    if client.set_nodelay(true).and_then(|()| server.set_nodelay(true)).is_err() {
        return;
    }
    let mut cut = state.clone();
    let ((from_client, to_client), (from_server, to_server)) = (client.into_split(), server.into_split());
    let requests = pump(from_client, to_server, state.clone(), false);
    let answers = pump(from_server, to_client, state, true);
    tokio::select! {
        // An end of one direction ends the connection only once the other has ended too, or is broken.
        _ = async { tokio::try_join!(requests, answers) } => {}
        _ = cut.wait_for(|state| state.link == Link::Cut) => {}
    }
}

/// Passes one direction on to its end. An error ends the connection.
async fn pump(
    mut from: OwnedReadHalf,
    mut to: OwnedWriteHalf,
    mut state: watch::Receiver<State>,
    answers: bool,
) -> io::Result<()> {
    let mut buffer = vec![0; CHUNK];
    loop {
        let read = from.read(&mut buffer).await?;
        if read == 0 {
            return to.shutdown().await;
        }
        let over = || io::Error::from(io::ErrorKind::ConnectionAborted);
        let link = state.wait_for(|state| state.link != Link::Held).await.map_err(|_| over())?.link;
        match link {
            Link::Slow(delay) => tokio::time::sleep(delay).await,
            Link::Deaf if answers => return Err(over()),
            Link::Open | Link::Deaf | Link::Held => {}
            Link::Cut => return Err(over()),
        }
        to.write_all(&buffer[..read]).await?;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wait_for;

    const PATIENCE: Duration = Duration::from_secs(30);

    /// A server that answers each byte with the same byte, and says how many it got.
    async fn echo(tasks: &Tasks) -> (SocketAddr, watch::Receiver<usize>) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let (got, gets) = watch::channel(0);
        let group = tasks.clone();
        tasks.background("echo", async move {
            while let Ok((mut stream, _)) = listener.accept().await {
                let got = got.clone();
                group.background("echoed", async move {
                    let mut byte = [0];
                    while stream.read_exact(&mut byte).await.is_ok() {
                        got.send_modify(|n| *n += 1);
                        if stream.write_all(&byte).await.is_err() {
                            return;
                        }
                    }
                });
            }
        });
        (address, gets)
    }

    async fn ask(stream: &mut TcpStream) -> io::Result<u8> {
        stream.write_all(b"x").await?;
        stream.read_u8().await
    }

    #[tokio::test]
    async fn a_link_is_held_cut_and_opened_again() {
        let tasks = Tasks::new();
        let (server, gets) = echo(&tasks).await;
        let proxy = Proxy::start(vec![server], &tasks).await.unwrap();
        let mut stream = TcpStream::connect(proxy.address()).await.unwrap();
        assert_eq!(ask(&mut stream).await.unwrap(), b'x');
        proxy.set(Link::Held);
        {
            let asking = ask(&mut stream);
            tokio::pin!(asking);
            assert!(tokio::time::timeout(Duration::from_millis(50), &mut asking).await.is_err());
            assert_eq!(*gets.borrow(), 1, "nothing passes");
            proxy.set(Link::Slow(Duration::from_millis(1)));
            assert_eq!(asking.await.unwrap(), b'x');
        }
        proxy.set(Link::Cut);
        assert!(ask(&mut stream).await.is_err());
        let mut refused = TcpStream::connect(proxy.address()).await.unwrap();
        assert!(ask(&mut refused).await.is_err());
        proxy.set(Link::Open);
        let mut again = TcpStream::connect(proxy.address()).await.unwrap();
        assert_eq!(ask(&mut again).await.unwrap(), b'x');
    }

    #[tokio::test]
    async fn an_answer_is_lost_after_its_request_was_done() {
        let tasks = Tasks::new();
        let (server, gets) = echo(&tasks).await;
        let proxy = Proxy::start(vec![server], &tasks).await.unwrap();
        let mut stream = TcpStream::connect(proxy.address()).await.unwrap();
        proxy.set(Link::Deaf);
        assert!(ask(&mut stream).await.is_err());
        wait_for("the request to arrive", PATIENCE, || async { *gets.borrow() == 1 }).await;
    }

    #[tokio::test]
    async fn connections_go_to_what_is_up() {
        let tasks = Tasks::new();
        let gone = TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap();
        let proxy = Proxy::start(vec![gone], &tasks).await.unwrap();
        let mut stream = TcpStream::connect(proxy.address()).await.unwrap();
        assert!(ask(&mut stream).await.is_err());
        let (server, _gets) = echo(&tasks).await;
        proxy.point(vec![gone, server]);
        for _ in 0..3 {
            let mut stream = TcpStream::connect(proxy.address()).await.unwrap();
            assert_eq!(ask(&mut stream).await.unwrap(), b'x');
        }
    }
}
