//! What is said about a PowerDNS that refuses, hangs, lies or is none.

use std::time::{Duration, Instant};

use vmail_operator::api::conditions::Reason;
use vmail_operator::dns::{ApiKey, DnsError, PowerDns, publish, withdraw};

use super::front::{Front, Mode};
use super::server::{KEY, server};
use super::{client, farewell, go, wish};

/// Both entry points say the same.
async fn fails(pdns: &PowerDns, domain: &str) -> DnsError {
    let error = publish(pdns, &wish(domain), &go).await.expect_err("publish");
    let other = withdraw(pdns, &farewell(domain), &go).await.expect_err("withdraw");
    assert_eq!(error.reason(), other.reason(), "{error} / {other}");
    for text in [error.to_string(), format!("{error:?} {other} {other:?} {pdns:?}")] {
        assert!(!text.contains(KEY), "{text}");
    }
    error
}

#[tokio::test]
async fn a_wrong_key_is_denied() {
    let server = server();
    let error = fails(&client(&server.url(), "wrong"), "denied.test").await;
    assert!(error.reason() == Reason::ProviderDenied && error.to_string().contains(&server.url()), "{error}");
}

#[tokio::test]
async fn a_closed_port_is_unreachable() {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("a free port");
    let address = listener.local_addr().expect("its address");
    drop(listener);
    let error = fails(&client(&format!("http://{address}"), KEY), "closed.test").await;
    assert!(
        error.reason() == Reason::ProviderUnreachable && error.to_string().contains("refused"),
        "{error}"
    );
}

#[tokio::test]
async fn a_hanging_server_is_given_up() {
    // Connections are made by the kernel, and nobody ever answers.
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("a free port");
    let url = format!("http://{}", listener.local_addr().expect("its address"));
    let begun = Instant::now();
    let pdns = client(&url, KEY).with_timeout(Duration::from_millis(200));
    let error = fails(&pdns, "hangs.test").await;
    assert!(error.reason() == Reason::ProviderUnreachable && error.to_string().contains("0.2 s"), "{error}");
    assert!(begun.elapsed() < Duration::from_secs(5), "{:?}", begun.elapsed());
}

#[tokio::test]
async fn a_wrong_url_or_server_id_is_not_a_missing_zone() {
    let server = server();
    server.zone("where.test", "Native").await;
    let other_id = PowerDns::new(&server.url(), ApiKey::new(KEY), "elsewhere").expect("client");
    for pdns in [other_id, client(&format!("{}/dns", server.url()), KEY)] {
        let error = fails(&pdns, "where.test").await;
        assert!(
            error.reason() == Reason::ProviderUnreachable && error.to_string().contains("server id"),
            "{error}"
        );
    }
}

#[tokio::test]
async fn every_usual_form_of_the_url_is_understood() {
    let server = server();
    server.zone("forms.test", "Native").await;
    for form in ["", "/", "/api/v1", "/api/v1/"] {
        let pdns = client(&format!("{}{form}", server.url()), &format!("{KEY}\n"));
        assert_eq!(publish(&pdns, &wish("forms.test"), &go).await.expect(form).zone, "forms.test");
    }
    for url in ["", "pdns:8081", "ftp://pdns", "http://"] {
        let error = PowerDns::new(url, ApiKey::new(KEY), "localhost").expect_err(url);
        assert_eq!(error.reason(), Reason::ProviderUnreachable);
    }
    for key in ["", " \n", "two\nlines"] {
        let error = PowerDns::new(&server.url(), ApiKey::new(key), "localhost").expect_err(key);
        assert!(error.to_string().contains("API key"), "{error}");
    }
}

#[tokio::test]
async fn server_errors_and_strange_answers_are_unreachable() {
    let server = server();
    for status in [200, 301, 429, 500, 502] {
        let front = Front::start(server.api, Mode::Status(status)).await;
        let error = fails(&client(&front.url(), KEY), "strange.test").await;
        assert_eq!(error.reason(), Reason::ProviderUnreachable, "{status}: {error}");
    }
    let front = Front::start(server.api, Mode::Status(403)).await;
    assert_eq!(fails(&client(&front.url(), KEY), "strange.test").await.reason(), Reason::ProviderDenied);
}

#[tokio::test]
async fn the_key_is_never_seen() {
    let server = server();
    let front = Front::start(server.api, Mode::Echo).await;
    let url = front.url().replace("http://", "http://admin:proxy-password@");
    let pdns = client(&url, KEY);
    let error = fails(&pdns, "echo.test").await;
    assert!(error.to_string().contains("x-api-key: (hidden)"), "{error}");
    let text = format!("{error} {:?}", ApiKey::new(KEY));
    assert!(!text.contains("proxy-password") && !text.contains(KEY), "{text}");
    assert!(!format!("{pdns:?}").contains("proxy-password"), "{pdns:?}");
}

#[tokio::test]
async fn a_yes_without_effect_is_an_error() {
    let server = server();
    server.zone("lie.test", "Native").await;
    let front = Front::start(server.api, Mode::Swallow).await;
    let liar = client(&front.url(), KEY);
    let error = publish(&liar, &wish("lie.test"), &go).await.expect_err("no effect");
    assert!(error.reason() == Reason::WriteHadNoEffect && error.to_string().contains("no MX"), "{error}");

    publish(&server.client(), &wish("lie.test"), &go).await.expect("published");
    let error = withdraw(&liar, &farewell("lie.test"), &go).await.expect_err("no effect");
    assert!(
        error.reason() == Reason::WriteHadNoEffect && error.to_string().contains("10 mail.us.test."),
        "{error}"
    );
}

#[tokio::test]
async fn a_lost_answer_heals_at_the_next_call() {
    let server = server();
    server.zone("lost.test", "Native").await;
    let front = Front::start(server.api, Mode::LoseAnswer).await;
    let pdns = client(&front.url(), KEY);

    let error = publish(&pdns, &wish("lost.test"), &go).await.expect_err("no answer");
    assert_eq!(error.reason(), Reason::ProviderUnreachable);
    assert!(!publish(&pdns, &wish("lost.test"), &go).await.expect("published").wrote);

    let error = withdraw(&pdns, &farewell("lost.test"), &go).await.expect_err("no answer");
    assert_eq!(error.reason(), Reason::ProviderUnreachable);
    assert!(!withdraw(&pdns, &farewell("lost.test"), &go).await.expect("withdrawn").removed);
    assert_eq!(front.writes(), 2);
}
