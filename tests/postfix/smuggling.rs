//! SMTP smuggling: one message never becomes two, whatever is taken for its end.

use std::io::{Read as _, Write as _};
use std::time::Duration;

use crate::mail::messages;
use crate::pod::{Pod, wait};
use crate::revision::Wanted;

/// What is no end of a message (RFC 5321 4.1.1.4: only CR LF . CR LF is), and has been taken for one somewhere.
const ENDS: [&str; 12] = [
    "\n.\n",
    "\n.\r\n",
    "\r.\r",
    "\r\n.\r",
    "\r.\r\n",
    "\r\n.\n",
    "\n.\r",
    "\r.\n",
    "\r\n\0.\r\n",
    "\r\n.\0\r\n",
    "\r\r\n.\r\r\n",
    "\n\r.\n\r",
];

#[test]
fn one_message_is_never_two() {
    let pod = Pod::serving(&Wanted::one("example.org"));
    for end in ENDS {
        let mut stream = pod.connect(25).expect("port 25");
        stream.set_read_timeout(Some(Duration::from_secs(10))).expect("a timeout");
        let mut said = Vec::new();
        let mut ask = |command: &str| {
            stream.write_all(command.as_bytes()).expect("sends");
            let mut reply = [0; 4096];
            let length = stream.read(&mut reply).unwrap_or_default();
            said.push(String::from_utf8_lossy(&reply[..length]).into_owned());
        };
        ask("");
        ask("EHLO client.example\r\n");
        ask("MAIL FROM:<a@elsewhere.example>\r\n");
        ask("RCPT TO:<you@example.org>\r\n");
        ask("DATA\r\n");
        let second = "MAIL FROM:<b@elsewhere.example>\r\nRCPT TO:<you@example.org>\r\nDATA\r\n";
        ask(&format!("Subject: outer\r\n\r\nhello{end}{second}Subject: smuggled\r\n\r\nhello\r\n.\r\n"));
        ask("QUIT\r\n");
        let accepted = said.iter().flat_map(|text| text.lines()).filter(|line| line.contains("queued as"));
        assert!(accepted.count() <= 1, "{end:?}: {said:?}");
    }
    // What was taken before this one has been delivered by then, or waits in the queue.
    pod.smtp().send("you@example.org", "marker");
    let delivered = || messages(&pod.volumes.vmail());
    wait("the marker", || delivered().iter().any(|(_, subject)| subject == "marker").then_some(()));
    wait("an empty queue", || pod.postfix(&["postqueue", "-j"]).trim().is_empty().then_some(()));
    let subjects: Vec<String> = delivered().into_iter().map(|(_, subject)| subject).collect();
    assert!(!subjects.iter().any(|subject| subject == "smuggled"), "{subjects:?}");
    assert!(subjects.iter().any(|subject| subject == "outer"), "nothing was tried: {subjects:?}");
}
