//! A client of Postfix.

use std::io::{BufRead as _, BufReader, Write as _};
use std::net::TcpStream;

/// An SMTP session.
pub struct Smtp {
    stream: BufReader<TcpStream>,
    sender: bool,
}

impl Smtp {
    pub fn greeted(stream: TcpStream) -> Self {
        let (mut session, greeting) = Self::begun(stream);
        assert!(greeting.starts_with("220 "), "{greeting}");
        session.hello();
        session
    }

    /// A session that said nothing yet, and what it was greeted with.
    pub fn begun(stream: TcpStream) -> (Self, String) {
        let mut session = Self { stream: BufReader::new(stream), sender: false };
        let greeting = session.lines().pop().unwrap_or_default();
        (session, greeting)
    }

    pub fn hello(&mut self) {
        assert!(self.ask("EHLO client.example").starts_with("250"));
    }

    /// The connection, once all that was said is read.
    pub fn into_stream(self) -> TcpStream {
        self.stream.into_inner()
    }

    /// The lines of one reply.
    fn lines(&mut self) -> Vec<String> {
        let mut lines = Vec::new();
        loop {
            let mut line = String::new();
            self.stream.read_line(&mut line).unwrap();
            let last = line.get(3..4) != Some("-");
            lines.push(line.trim_end().to_owned());
            if last {
                return lines;
            }
        }
    }

    /// Whether the server hung up.
    pub fn is_over(&mut self) -> bool {
        self.stream.fill_buf().map_or(true, |rest| rest.is_empty() || rest.starts_with(b"421"))
    }

    pub fn ask(&mut self, command: &str) -> String {
        self.ask_for_lines(command).pop().unwrap_or_default()
    }

    pub fn ask_for_lines(&mut self, command: &str) -> Vec<String> {
        // In one piece: the second would wait for the acknowledgement of the first.
        self.stream.get_mut().write_all(format!("{command}\r\n").as_bytes()).unwrap();
        self.lines()
    }

    pub fn rcpt(&mut self, address: &str) -> String {
        if !self.sender {
            assert!(self.ask("MAIL FROM:<sender@elsewhere.example>").starts_with("250"));
            self.sender = true;
        }
        self.ask(&format!("RCPT TO:<{address}>"))
    }

    /// Sends one small message, and gives its queue id.
    pub fn send(mut self, address: &str, subject: &str) -> String {
        let reply = self.rcpt(address);
        assert!(reply.starts_with("250"), "{address}: {reply}");
        assert!(self.ask("DATA").starts_with("354"));
        let reply = self.ask(&format!("Subject: {subject}\r\n\r\nhello\r\n."));
        assert!(reply.starts_with("250"), "{address}: {reply}");
        self.ask("QUIT");
        reply.rsplit(' ').next().unwrap_or_default().to_owned()
    }
}
