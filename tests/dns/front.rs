//! What may stand between us and PowerDNS: it forwards requests, counts those that write, and can
//! misbehave in ways that a real server does only under load.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

#[derive(Clone, Copy, PartialEq)]
pub enum Mode {
    /// Passes everything on.
    Forward,
    /// Says 204 to a write and does nothing.
    Swallow,
    /// Passes a write on and hangs up instead of passing on the answer.
    LoseAnswer,
    /// Answers everything with 422 and the request that it got.
    Echo,
    /// Answers everything with this status.
    Status(u16),
}

pub struct Front {
    pub address: SocketAddr,
    writes: Arc<AtomicUsize>,
}

impl Front {
    pub async fn start(upstream: SocketAddr, mode: Mode) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        let address = listener.local_addr().expect("its address");
        let writes = Arc::new(AtomicUsize::new(0));
        let counter = writes.clone();
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                tokio::spawn(serve(stream, upstream, mode, counter.clone()));
            }
        });
        Self { address, writes }
    }

    pub fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    /// Requests so far that were not a GET.
    pub fn writes(&self) -> usize {
        self.writes.load(Ordering::SeqCst)
    }
}

/// One connection carries one request: every answer here and PowerDNS's own closes it.
async fn serve(
    mut stream: TcpStream,
    upstream: SocketAddr,
    mode: Mode,
    writes: Arc<AtomicUsize>,
) -> std::io::Result<()> {
    let request = read_request(&mut stream).await?;
    let is_write = !request.starts_with(b"GET ");
    writes.fetch_add(usize::from(is_write), Ordering::SeqCst);
    let answer = match mode {
        Mode::Echo => answer(422, &String::from_utf8_lossy(&request)),
        Mode::Status(status) => answer(status, "from the front"),
        Mode::Swallow if is_write => b"HTTP/1.1 204 No Content\r\nConnection: close\r\n\r\n".to_vec(),
        _ => {
            let mut server = TcpStream::connect(upstream).await?;
            server.write_all(&request).await?;
            let mut answer = Vec::new();
            server.read_to_end(&mut answer).await?;
            answer
        }
    };
    if mode == Mode::LoseAnswer && is_write {
        return Ok(());
    }
    stream.write_all(&answer).await
}

fn answer(status: u16, body: &str) -> Vec<u8> {
    format!("HTTP/1.1 {status} X\r\nConnection: close\r\nContent-Length: {}\r\n\r\n{body}", body.len()).into()
}

async fn read_request(stream: &mut TcpStream) -> std::io::Result<Vec<u8>> {
    let mut request = Vec::new();
    loop {
        let text = String::from_utf8_lossy(&request).to_ascii_lowercase();
        if let Some((head, body)) = text.split_once("\r\n\r\n") {
            let length = head
                .lines()
                .find_map(|line| line.strip_prefix("content-length: "))
                .map_or(0, |length| length.parse().expect("a length"));
            if body.len() >= length {
                return Ok(request);
            }
        }
        if stream.read_buf(&mut request).await? == 0 {
            return Err(std::io::ErrorKind::UnexpectedEof.into());
        }
    }
}
