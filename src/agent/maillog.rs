//! Postfix's log on its way to our standard output: every line passes as it is, and deliveries are counted.

use std::io::{BufRead as _, BufReader, PipeReader, Read as _, Write as _};

use tokio::sync::oneshot;

use super::metrics::Metrics;

/// Longer lines pass in pieces. Postfix's own are shorter.
const LONGEST_LINE: u64 = 64 * 1024;

/// Passes lines on in a thread of its own, until nobody writes any more; says so on the channel. It waits for nothing but
/// standard output, as Postfix would without it.
///
/// # Errors
/// When there can be no more threads.
pub fn pass_on(from: PipeReader, metrics: Metrics) -> std::io::Result<oneshot::Receiver<()>> {
    let (over, ended) = oneshot::channel();
    let pass = move || {
        let mut lines = BufReader::new(from);
        let mut line = Vec::new();
        while matches!((&mut lines).take(LONGEST_LINE).read_until(b'\n', &mut line), Ok(1..)) {
            // Without a reader of the log, mail is delivered all the same.
            let _ = std::io::stdout().lock().write_all(&line);
            if let Some((transport, status)) = delivery(&String::from_utf8_lossy(&line)) {
                metrics.delivered(transport, status);
            }
            line.clear();
        }
        let _ = over.send(());
    };
    std::thread::Builder::new().name("maillog".into()).spawn(pass)?;
    Ok(ended)
}

/// The transport and the status of one attempt to deliver to one recipient, as in
/// `postfix/virtual[12]: 4jZ8: to=<you@example.org>, relay=virtual, …, dsn=2.0.0, status=sent (delivered to maildir)`.
fn delivery(line: &str) -> Option<(&str, &'static str)> {
    let (_, rest) = line.split_once(" postfix/")?;
    let (transport, rest) = rest.split_once('[')?;
    let (_, rest) = rest.split_once(": to=<")?;
    let (_, rest) = rest.split_once(", dsn=")?;
    let (_, rest) = rest.split_once(", status=")?;
    // A path (`postfix/smtp/virtual`) names a service of master.cf that was given a name in the log.
    let plain = transport.len() < 32 && transport.bytes().all(|byte| byte.is_ascii_lowercase());
    let status = ["sent", "deferred", "bounced"].into_iter().find(|status| rest.starts_with(status))?;
    plain.then_some((transport, status))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn deliveries_are_told_from_everything_else() {
        let begin = "Nov 25 06:29:25 mx postfix/";
        let line = |text: &str| format!("{begin}{text}\n");
        let sent = line(
            "virtual[9]: 4jZ: to=<a@b.c>, relay=virtual, delay=0, delays=0/0/0/0, dsn=2.0.0, status=sent (delivered to maildir)",
        );
        assert_eq!(delivery(&sent), Some(("virtual", "sent")));
        let deferred = line(
            "smtp[9]: 4jZ: to=<a@b.c>, orig_to=<d@e.f>, relay=none, delay=1, dsn=4.4.1, status=deferred (status=sent, he said)",
        );
        assert_eq!(delivery(&deferred), Some(("smtp", "deferred")));
        for other in [
            "smtpd[9]: 4jZ: client=unknown[127.0.0.1]",
            "qmgr[9]: 4jZ: from=<x, dsn=1, status=sent>, size=1, nrcpt=1 (queue active)",
            "smtp[9]: 4jZ: to=<a@b.c>, relay=none, dsn=2.0.0, status=other (x)",
        ] {
            assert_eq!(delivery(&line(other)), None, "{other}");
        }
        assert_eq!(delivery(""), None);
    }
}
