//! An SMTP client that connects from inside the cluster's network namespace.

use std::fs::File;
use std::io::{BufRead, BufReader, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

use nix::sched::{CloneFlags, setns};

const TIMEOUT: Duration = Duration::from_secs(10);

pub struct Session {
    stream: BufReader<TcpStream>,
}

/// Connects as a process of the namespaces of `pid`. A thread of its own: it does not come back from there.
fn connect(pid: &str, address: SocketAddr) -> Result<TcpStream, String> {
    let namespace = format!("/proc/{pid}/ns/net");
    std::thread::spawn(move || {
        let file = File::open(&namespace).map_err(|error| format!("{namespace}: {error}"))?;
        setns(file, CloneFlags::CLONE_NEWNET).map_err(|error| format!("{namespace}: {error}"))?;
        TcpStream::connect_timeout(&address, TIMEOUT).map_err(|error| format!("{address}: {error}"))
    })
    .join()
    .map_err(|_| "the connecting thread panicked".to_owned())?
}

impl Session {
    pub fn open(pid: &str, address: &str) -> Result<Self, String> {
        Self::on(connect(pid, address.parse().map_err(|error| format!("{address}: {error}"))?)?)
    }

    /// Over a connection that was just made.
    pub fn on(stream: TcpStream) -> Result<Self, String> {
        stream.set_read_timeout(Some(TIMEOUT)).map_err(|error| error.to_string())?;
        let mut session = Self { stream: BufReader::new(stream) };
        session.expect(220)?;
        session
            .stream
            .get_mut()
            .write_all(b"EHLO client.example.com\r\n")
            .map_err(|error| error.to_string())?;
        session.expect(250)?;
        Ok(session)
    }

    fn expect(&mut self, code: u16) -> Result<(), String> {
        match self.reply()? {
            (got, _) if got == code => Ok(()),
            (got, text) => Err(format!("{got} {text}")),
        }
    }

    pub fn command(&mut self, line: &str) -> Result<(u16, String), String> {
        self.stream
            .get_mut()
            .write_all(format!("{line}\r\n").as_bytes())
            .map_err(|error| error.to_string())?;
        self.reply()
    }

    fn reply(&mut self) -> Result<(u16, String), String> {
        loop {
            let mut line = String::new();
            self.stream.read_line(&mut line).map_err(|error| error.to_string())?;
            let code = line
                .get(..3)
                .and_then(|code| code.parse().ok())
                .ok_or_else(|| format!("not a reply: {line:?}"))?;
            if line.as_bytes().get(3) != Some(&b'-') {
                return Ok((code, line[3..].trim().to_owned()));
            }
        }
    }
}
