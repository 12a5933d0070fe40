//! A small SMTP client that asks and never sends mail (RFC 5321, RFC 2920).

use std::time::Duration;

use tokio::io::{AsyncBufReadExt as _, AsyncReadExt as _, AsyncWriteExt as _, BufReader};
use tokio::net::TcpStream;
use tokio::time::timeout;

/// RFC 5321 4.5.3.1.5 allows 512; Postfix writes longer ones.
const LONGEST_LINE: u64 = 4096;

/// More lines than any reply to what we ask has.
const MOST_LINES: usize = 100;

/// One reply, its lines joined by a space.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Reply {
    /// The three digits.
    pub code: u16,
    /// The text without them.
    pub text: String,
}

impl std::fmt::Display for Reply {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} {}", self.code, self.text)
    }
}

/// Why there was no reply.
#[derive(Debug, thiserror::Error)]
pub enum SmtpError {
    /// The connection failed or ended.
    #[error("{address}: {error}")]
    Io {
        /// The server.
        address: String,
        /// The operating system's error.
        error: std::io::Error,
    },
    /// Nothing came in time.
    #[error("{address}: no answer within {seconds} s")]
    TimedOut {
        /// The server.
        address: String,
        /// The limit.
        seconds: f64,
    },
    /// Something that is not SMTP.
    #[error("{address}: `{line}` is no SMTP reply")]
    NotSmtp {
        /// The server.
        address: String,
        /// What it sent.
        line: String,
    },
    /// A command that must succeed did not.
    #[error("{address}: {command}: {reply}")]
    Refused {
        /// The server.
        address: String,
        /// The command.
        command: String,
        /// What the server said.
        reply: Reply,
    },
}

impl SmtpError {
    /// Whether nobody listens there at all.
    pub fn is_refused(&self) -> bool {
        matches!(self, Self::Io { error, .. } if error.kind() == std::io::ErrorKind::ConnectionRefused)
    }
}

/// One connection to a server, which has greeted.
#[derive(Debug)]
pub struct Session {
    address: String,
    stream: BufReader<TcpStream>,
    patience: Duration,
    /// What the server greeted with.
    pub greeting: Reply,
}

impl Session {
    /// Connects and waits for the greeting. `patience` limits every single step of the session.
    pub async fn connect(address: &str, patience: Duration) -> Result<Self, SmtpError> {
        let stream = limited(address, patience, TcpStream::connect(address)).await?;
        let greeting = Reply { code: 0, text: String::new() };
        let mut session =
            Self { address: address.into(), stream: BufReader::new(stream), patience, greeting };
        session.greeting = session.reply().await?;
        Ok(session)
    }

    /// Sends one command and waits for its reply.
    pub async fn ask(&mut self, command: &str) -> Result<Reply, SmtpError> {
        self.send(&format!("{command}\r\n")).await?;
        self.reply().await
    }

    /// Sends several commands at once and collects their replies in order (command pipelining). Few enough
    /// that they fit into the socket's buffers: the server waits while we do not read.
    pub async fn ask_all(&mut self, commands: &[String]) -> Result<Vec<Reply>, SmtpError> {
        let text: String = commands.iter().map(|command| format!("{command}\r\n")).collect();
        self.send(&text).await?;
        let mut replies = Vec::with_capacity(commands.len());
        for _ in commands {
            replies.push(self.reply().await?);
        }
        Ok(replies)
    }

    /// Asks for TLS (RFC 3207): what follows on the connection is the handshake.
    pub async fn starttls(mut self) -> Result<TcpStream, SmtpError> {
        for (command, wanted) in [("EHLO proof.invalid", 250), ("STARTTLS", 220)] {
            let reply = self.ask(command).await?;
            if reply.code != wanted {
                return Err(SmtpError::Refused { address: self.address, command: command.into(), reply });
            }
        }
        Ok(self.stream.into_inner())
    }

    /// Ends the session politely.
    pub async fn quit(mut self) {
        let _ = self.ask("QUIT").await;
    }

    async fn send(&mut self, text: &str) -> Result<(), SmtpError> {
        limited(&self.address, self.patience, self.stream.get_mut().write_all(text.as_bytes())).await
    }

    async fn reply(&mut self) -> Result<Reply, SmtpError> {
        let mut text = String::new();
        for _ in 0..MOST_LINES {
            let line = self.line().await?;
            let Some((code, last, rest)) = parse(&line) else {
                return Err(SmtpError::NotSmtp { address: self.address.clone(), line });
            };
            if !text.is_empty() {
                text.push(' ');
            }
            text.push_str(rest);
            if last {
                return Ok(Reply { code, text });
            }
        }
        let line = "a reply without an end".into();
        Err(SmtpError::NotSmtp { address: self.address.clone(), line })
    }

    async fn line(&mut self) -> Result<String, SmtpError> {
        let mut line = Vec::new();
        let mut bounded = (&mut self.stream).take(LONGEST_LINE);
        limited(&self.address, self.patience, bounded.read_until(b'\n', &mut line)).await?;
        let text = String::from_utf8_lossy(&line).trim_end().to_owned();
        if line.is_empty() {
            let error = std::io::ErrorKind::UnexpectedEof.into();
            return Err(SmtpError::Io { address: self.address.clone(), error });
        }
        if !line.ends_with(b"\n") {
            return Err(SmtpError::NotSmtp { address: self.address.clone(), line: text });
        }
        Ok(text)
    }
}

async fn limited<T>(
    address: &str,
    patience: Duration,
    work: impl Future<Output = std::io::Result<T>>,
) -> Result<T, SmtpError> {
    match timeout(patience, work).await {
        Ok(Ok(value)) => Ok(value),
        Ok(Err(error)) => Err(SmtpError::Io { address: address.into(), error }),
        Err(_) => Err(SmtpError::TimedOut { address: address.into(), seconds: patience.as_secs_f64() }),
    }
}

/// Code, whether this is the reply's last line, and text.
fn parse(line: &str) -> Option<(u16, bool, &str)> {
    let code = line.get(..3).filter(|code| code.bytes().all(|byte| byte.is_ascii_digit()))?;
    let code = code.parse().ok()?;
    match line.as_bytes().get(3) {
        None => Some((code, true, "")),
        Some(b' ') => Some((code, true, line.get(4..)?)),
        Some(b'-') => Some((code, false, line.get(4..)?)),
        Some(_) => None,
    }
}

#[cfg(test)]
mod tests {
    use tokio::net::TcpListener;

    use super::*;

    async fn against(server: &'static [u8]) -> Result<Session, SmtpError> {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap().to_string();
        tokio::spawn(async move {
            let (mut stream, _) = listener.accept().await.unwrap();
            let _ = stream.write_all(server).await;
            let mut sink = Vec::new();
            if server.ends_with(b"...") {
                let _ = stream.read_to_end(&mut sink).await;
            }
        });
        Session::connect(&address, Duration::from_millis(500)).await
    }

    #[tokio::test]
    async fn replies_of_several_lines_are_one() {
        let mut session = against(b"220 hello\r\n250-a\r\n250-b\r\n250 c\r\n550\r\n...").await.unwrap();
        assert_eq!(session.greeting, Reply { code: 220, text: "hello".into() });
        let replies = session.ask_all(&["EHLO x".into(), "RCPT".into()]).await.unwrap();
        assert_eq!(replies[0], Reply { code: 250, text: "a b c".into() });
        assert_eq!(replies[1], Reply { code: 550, text: String::new() });
    }

    #[tokio::test]
    async fn a_silent_server_is_left_in_time() {
        let error = against(b"220-hello\r\n...").await.unwrap_err();
        assert!(matches!(error, SmtpError::TimedOut { .. }), "{error}");
    }

    #[tokio::test]
    async fn what_is_not_smtp_is_said_so() {
        for server in [b"HTTP/1.1 200 OK\r\n".as_slice(), b"22", b"220x\r\n", b"\xff\xff\xff\xff\r\n"] {
            let error = against(server).await.unwrap_err();
            assert!(matches!(error, SmtpError::NotSmtp { .. }), "{error}");
        }
        let error = against(b"").await.unwrap_err();
        assert!(matches!(error, SmtpError::Io { .. }), "{error}");
    }

    #[tokio::test]
    async fn a_line_and_a_reply_have_an_end() {
        let long: &'static [u8] = Box::leak(vec![b'2'; 100_000].into_boxed_slice());
        assert!(matches!(against(long).await, Err(SmtpError::NotSmtp { .. })));
        let many: &'static [u8] = Box::leak(b"220-x\r\n".repeat(200).into_boxed_slice());
        assert!(matches!(against(many).await, Err(SmtpError::NotSmtp { .. })));
    }
}
