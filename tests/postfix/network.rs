//! Who the client is: load balancers that say so by PROXY protocol, and IPv6.

use std::io::{Read as _, Write as _};
use std::net::TcpStream;

use vmail_operator::postfix::main_cf::PROXY_PORT;

use crate::mail::messages;
use crate::pod::{Pod, Smtp, wait};
use crate::revision::Wanted;

/// A connection to the listener for load balancers, which begins with this.
fn through(pod: &Pod, header: &[u8]) -> TcpStream {
    let mut stream = pod.connect(PROXY_PORT).unwrap();
    stream.write_all(header).unwrap();
    stream
}

/// Version 1 of the header.
fn header(family: &str, client: &str, server: &str) -> Vec<u8> {
    format!("PROXY {family} {client} {server} 40000 25\r\n").into_bytes()
}

/// Version 2 of it, for a client of IPv4.
fn binary_header(client: [u8; 4]) -> Vec<u8> {
    let mut header = b"\r\n\r\n\0\r\nQUIT\n".to_vec();
    // Version 2 and PROXY, TCP over IPv4, twelve bytes.
    header.extend([0x21, 0x11, 0, 12]);
    header.extend(client);
    header.extend([192, 0, 2, 25]);
    header.extend([0x9c, 0x40, 0, 25]);
    header
}

/// What is said to a client before it is hung up on.
fn last_words(mut stream: TcpStream) -> String {
    let mut said = Vec::new();
    // It may be reset, since not all that was sent is read.
    let _ = stream.read_to_end(&mut said);
    String::from_utf8_lossy(&said).into_owned()
}

#[test]
fn a_load_balancer_says_who_the_client_is() {
    let pod = Pod::serving(&Wanted::one("example.org").behind_proxy());
    for (subject, client, header) in [
        ("one", "198.51.100.7", header("TCP4", "198.51.100.7", "192.0.2.25")),
        ("two", "IPv6:2001:db8::7", header("TCP6", "2001:db8::7", "2001:db8::25")),
        ("three", "198.51.100.8", binary_header([198, 51, 100, 8])),
    ] {
        Smtp::greeted(through(&pod, &header)).send("you@example.org", subject);
        let received = wait("the message", || {
            let files = std::fs::read_dir(pod.volumes.vmail().join("example.org/you/new")).ok()?;
            let mut texts = files.map(|file| std::fs::read_to_string(file.unwrap().path()).unwrap());
            texts.find(|text| text.contains(&format!("Subject: {subject}\n")))
        });
        assert!(received.contains(&format!("[{client}]")), "{client}: {received}");
    }
    // The usual listener takes nobody's word for it.
    let mut stream = pod.connect(25).unwrap();
    stream.write_all(&header("TCP4", "198.51.100.7", "192.0.2.25")).unwrap();
    let said = last_words(stream);
    assert!(!said.contains("250 "), "{said}");
}

#[test]
fn nobody_comes_in_beside_the_load_balancer() {
    let pod = Pod::serving(&Wanted::one("example.org").behind_proxy());
    let long = format!("PROXY TCP4 {} ", "1".repeat(400));
    for begin in ["EHLO client.example\r\n", "\r\n", "PROXY\r\n", "PROXY TCP4 a b c d\r\n", &long] {
        let said = last_words(through(&pod, begin.as_bytes()));
        assert!(!said.contains("220") && !said.contains("250"), "{begin}: {said}");
    }
    // Without any word it is hung up on in the end.
    let said = last_words(pod.connect(PROXY_PORT).unwrap());
    assert!(!said.contains("220"), "{said}");
    Smtp::greeted(through(&pod, &header("TCP4", "198.51.100.7", "192.0.2.25"))).send("you@example.org", "on");
}

/// Whoever reaches the listener may say that he is anybody. That opens nothing, and spares nobody the limits.
#[test]
fn a_made_up_client_gets_nothing() {
    let wanted = Wanted::one("example.org").behind_proxy();
    let pod = Pod::serving(&wanted.parameter("smtpd_client_connection_rate_limit", "5"));
    for client in ["127.0.0.1", "10.244.0.1", "192.0.2.25"] {
        let mut session = Smtp::greeted(through(&pod, &header("TCP4", client, "192.0.2.25")));
        for address in ["you@example.com", "root@[127.0.0.1]", "nobody@example.org"] {
            let reply = session.rcpt(address);
            assert!(reply.starts_with('5'), "{address} from {client}: {reply}");
        }
    }
    let refused = (0..20).find_map(|_| {
        let mut stream = through(&pod, &header("TCP4", "127.0.0.1", "192.0.2.25"));
        let mut said = [0; 4];
        stream.read_exact(&mut said).unwrap();
        (said == *b"421 ").then_some(())
    });
    assert_eq!(refused, Some(()), "no limit");
}

#[test]
fn ipv6_is_served_as_ipv4_is() {
    let pod = Pod::serving(&Wanted::one("example.org"));
    Smtp::greeted(pod.connect_ipv6(25).unwrap()).send("you@example.org", "six");
    wait("the message", || {
        messages(&pod.volumes.vmail()).iter().any(|(_, found)| found == "six").then_some(())
    });
    let mut stream = pod.connect_ipv6(8025).unwrap();
    stream.write_all(b"GET /readyz HTTP/1.1\r\nHost: a\r\n\r\n").unwrap();
    let said = last_words(stream);
    assert!(said.starts_with("HTTP/1.1 200"), "{said}");
}
