//! As much HTTP as a probe speaks.

use std::{net::SocketAddr, time::Duration};

use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
    time::timeout,
};

/// The status and the body that `path` answers; `None` where nobody has answered whole within `patience`. A probe has a
/// second.
pub async fn http_get(address: SocketAddr, path: &str, patience: Duration) -> Option<(u16, String)> {
    timeout(patience, fetch(address, path)).await.ok().flatten()
}

async fn fetch(address: SocketAddr, path: &str) -> Option<(u16, String)> {
    let mut stream = TcpStream::connect(address).await.ok()?;
    // 1.0: the answer ends with the connection and is not chunked.
    let request = format!("GET {path} HTTP/1.0\r\nHost: {address}\r\n\r\n");
    stream.write_all(request.as_bytes()).await.ok()?;
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer).await.ok()?;
    let answer = String::from_utf8_lossy(&answer);
    let (head, body) = answer.split_once("\r\n\r\n")?;
    let status = head.split_whitespace().nth(1)?.parse().ok()?;
    Some((status, body.to_owned()))
}

#[cfg(test)]
mod tests {
    use tokio::net::TcpListener;

    use super::*;

    #[tokio::test]
    async fn an_answer_is_had_whole_and_nobody_is_waited_for_longer_than_was_said() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let answer = async {
            let (mut stream, _) = listener.accept().await.unwrap();
            // All of it: what is left unread resets the connection, and the answer with it.
            let mut request = Vec::new();
            while !request.ends_with(b"\r\n\r\n") {
                stream.read_buf(&mut request).await.unwrap();
            }
            assert!(request.starts_with(b"GET /healthz"));
            stream.write_all(b"HTTP/1.0 503 no\r\nx: y\r\n\r\nnot ").await.unwrap();
            stream.write_all(b"ready").await.unwrap();
        };
        let (got, ()) = tokio::join!(http_get(address, "/healthz", Duration::from_secs(10)), answer);
        assert_eq!(got, Some((503, "not ready".to_owned())));
        // It is accepted by the system, and nobody ever answers.
        assert_eq!(http_get(address, "/healthz", Duration::from_millis(20)).await, None);
    }
}
