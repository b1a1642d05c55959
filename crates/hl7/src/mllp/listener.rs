//! The receiving side.

use std::{io, net::SocketAddr};

use bytes::Bytes;
use futures::{SinkExt, StreamExt};
use tokio::net::{TcpListener, TcpStream, ToSocketAddrs};
use tokio_util::codec::Framed;

use super::{Codec, FrameError};

/// A socket that accepts MLLP connections.
#[derive(Debug)]
pub struct Listener {
    socket: TcpListener,
    limit: usize,
}

impl Listener {
    /// Listens at `address` (port 0: any free one) and accepts messages of at most `frame_limit` bytes.
    pub async fn bind(address: impl ToSocketAddrs, frame_limit: usize) -> io::Result<Self> {
        Ok(Self { socket: TcpListener::bind(address).await?, limit: frame_limit })
    }

    /// Where it listens.
    pub fn local_addr(&self) -> io::Result<SocketAddr> {
        self.socket.local_addr()
    }

    /// Waits for a connection. Cancelling loses none.
    pub async fn accept(&self) -> io::Result<(Connection, SocketAddr)> {
        let (stream, peer) = self.socket.accept().await?;
        stream.set_nodelay(true)?;
        Ok((Connection { frames: Framed::new(stream, Codec::new(self.limit)) }, peer))
    }
}

/// A connection on which a sender's messages arrive.
#[derive(Debug)]
pub struct Connection {
    frames: Framed<TcpStream, Codec>,
}

impl Connection {
    /// The next message, without its frame; `None` once the sender has closed the connection between two frames.
    /// After an error the connection is of no further use. Cancelling loses nothing.
    pub async fn receive(&mut self) -> Result<Option<Bytes>, FrameError> {
        self.frames.next().await.transpose()
    }

    /// Sends an answer.
    pub async fn reply(&mut self, message: &str) -> Result<(), FrameError> {
        self.frames.send(message).await
    }

    /// How many bytes outside frames the sender has sent.
    #[must_use]
    pub fn skipped(&self) -> u64 {
        self.frames.codec().skipped()
    }
}
