//! The proof: what the running Postfix is asked, and what its answers mean.
//!
//! | question | serving | draining | while settling |
//! |---|---|---|---|
//! | `postmaster@domain` | 250 | 250 or 450 | as before |
//! | an address that nobody has | 550, with a catch-all 250 | 450, or 250 | 450, or 250 |
//! | a domain that nobody serves | 5xx | 5xx | 454 |
//!
//! Another 4xx says that Postfix cannot tell now, and the question is asked again.

use std::collections::BTreeMap;
use std::time::Duration;

use super::smtp::{Reply, Session, SmtpError};
use crate::revision::{DomainLine, DomainState};

/// The domains that are asked about in one session; all their commands fit into a socket's buffer.
const DOMAINS_PER_SESSION: usize = 50;

/// What one step of a session may take.
const PATIENCE: Duration = Duration::from_secs(5);

/// One domain to be proved.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Asked {
    /// The domain, its hash and its state.
    pub line: DomainLine,
    /// Whether any address of it is accepted.
    pub catch_all: bool,
}

/// What the answers say about one domain.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Judgement {
    /// Postfix answers as the domain's state demands.
    Proved,
    /// It does not: question and answer.
    Failed(String),
    /// It cannot tell now: question and answer.
    NotNow(String),
}

/// What the answers say about the configuration as a whole.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Relay {
    /// Mail for others is refused.
    Refused,
    /// Mail for others is accepted: question and answer.
    Open(String),
    /// Recipients are answered with an error of the server's: question and answer.
    Broken(String),
    /// Nobody answers the question now, and the reason may not lie in the configuration.
    NotNow(String),
}

/// Judges one domain by its two answers.
pub fn judge(asked: &Asked, settling: bool, postmaster: (&str, &Reply), nobody: (&str, &Reply)) -> Judgement {
    let draining = asked.line.state == DomainState::Draining;
    let judge_one = |(question, reply): (&str, &Reply), wanted: &[u16]| {
        let said = format!("{question}: {reply}");
        match reply.code {
            code if wanted.contains(&code) => Judgement::Proved,
            400..=499 => Judgement::NotNow(said),
            _ => Judgement::Failed(said),
        }
    };
    let first = judge_one(postmaster, if draining { &[250, 450] } else { &[250] });
    let second = judge_one(
        nobody,
        match (asked.catch_all, draining || settling) {
            (true, _) => &[250],
            (false, true) => &[450],
            (false, false) => &[550],
        },
    );
    match (first, second) {
        (failed @ Judgement::Failed(_), _) => failed,
        (_, failed @ Judgement::Failed(_)) => failed,
        (Judgement::Proved, second) => second,
        (first, _) => first,
    }
}

/// Judges the answer to a recipient in a domain that nobody serves.
pub fn judge_relay(settling: bool, question: &str, reply: &Reply) -> Relay {
    let said = format!("{question}: {reply}");
    match reply.code {
        200..=399 => Relay::Open(said),
        454 if settling => Relay::Refused,
        500..=599 => Relay::Refused,
        421 | 452 => Relay::NotNow(said),
        _ => Relay::Broken(said),
    }
}

/// Asks about a recipient in a domain that nobody serves.
pub async fn ask_relay(address: &str, settling: bool) -> Relay {
    let question = format!("RCPT TO:<{}@{}.invalid>", random_name(), random_name());
    let talk = async {
        let mut session = begin(address).await?;
        let sender = session.ask("MAIL FROM:<>").await?;
        if sender.code != 250 {
            return Ok(Relay::NotNow(format!("MAIL FROM:<>: {sender}")));
        }
        let reply = session.ask(&question).await?;
        session.quit().await;
        Ok::<_, SmtpError>(judge_relay(settling, &question, &reply))
    };
    talk.await.unwrap_or_else(|error| Relay::NotNow(error.to_string()))
}

/// Asks about many domains, in as few sessions as are good; one domain's answer never costs another's.
pub async fn ask_domains(address: &str, settling: bool, domains: &[Asked]) -> BTreeMap<String, Judgement> {
    let mut judgements = BTreeMap::new();
    for some in domains.chunks(DOMAINS_PER_SESSION) {
        match ask_some(address, settling, some).await {
            Ok(answers) => judgements.extend(answers),
            Err(error) => {
                let all = some.iter().map(|asked| asked.line.domain.clone());
                judgements.extend(all.map(|domain| (domain, Judgement::NotNow(error.to_string()))));
            }
        }
    }
    judgements
}

async fn ask_some(
    address: &str,
    settling: bool,
    domains: &[Asked],
) -> Result<Vec<(String, Judgement)>, SmtpError> {
    let mut session = begin(address).await?;
    let mut questions = Vec::with_capacity(domains.len() * 4);
    for asked in domains {
        let domain = &asked.line.domain;
        questions.push("MAIL FROM:<>".to_owned());
        questions.push(format!("RCPT TO:<postmaster@{domain}>"));
        questions.push(format!("RCPT TO:<{}@{domain}>", random_name()));
        questions.push("RSET".to_owned());
    }
    let replies = session.ask_all(&questions).await?;
    session.quit().await;
    let answers = domains.iter().zip(questions.chunks(4)).zip(replies.chunks(4));
    let answers = answers.filter_map(|((asked, questions), replies)| {
        let ([_, first, second, _], [sender, postmaster, nobody, _]) = (questions, replies) else {
            return None;
        };
        let judgement = if sender.code == 250 {
            judge(asked, settling, (first, postmaster), (second, nobody))
        } else {
            Judgement::NotNow(format!("MAIL FROM:<>: {sender}"))
        };
        Some((asked.line.domain.clone(), judgement))
    });
    Ok(answers.collect())
}

/// Waits until the listener at `address` greets with `mark`: until then, processes with an older
/// configuration may answer.
pub async fn wait_for_mark(address: &str, mark: &str, patience: Duration) -> Result<(), String> {
    let deadline = tokio::time::Instant::now() + patience;
    loop {
        let seen = match Session::connect(address, PATIENCE).await {
            Ok(session) if session.greeting.text == mark => {
                session.quit().await;
                return Ok(());
            }
            Ok(session) => {
                let greeting = session.greeting.to_string();
                session.quit().await;
                greeting
            }
            Err(error) => error.to_string(),
        };
        if tokio::time::Instant::now() >= deadline {
            return Err(format!("Postfix does not serve the new configuration; last seen: {seen}"));
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

/// Whether Postfix answers at `address`. A server that is too busy to greet in time still listens.
pub async fn answers(address: &str) -> Result<(), String> {
    match Session::connect(address, Duration::from_secs(2)).await {
        Ok(session) => {
            session.quit().await;
            Ok(())
        }
        Err(SmtpError::TimedOut { .. }) => Ok(()),
        Err(error) => Err(error.to_string()),
    }
}

async fn begin(address: &str) -> Result<Session, SmtpError> {
    let mut session = Session::connect(address, PATIENCE).await?;
    session.ask("EHLO localhost").await?;
    Ok(session)
}

/// A name that nobody has.
fn random_name() -> String {
    format!("probe-{:016x}", rand::random::<u64>())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn asked(state: DomainState, catch_all: bool) -> Asked {
        Asked { line: DomainLine { domain: "a.b".into(), hash: "1".into(), state }, catch_all }
    }

    fn verdict(asked: &Asked, settling: bool, first: u16, second: u16) -> char {
        let reply = |code| Reply { code, text: "text".into() };
        match judge(asked, settling, ("first", &reply(first)), ("second", &reply(second))) {
            Judgement::Proved => '+',
            Judgement::Failed(_) => '-',
            Judgement::NotNow(_) => '?',
        }
    }

    #[test]
    fn answers_are_judged_as_in_the_table() {
        use DomainState::{Draining, Serving};
        for (state, catch_all, settling, first, second, expected) in [
            (Serving, false, false, 250, 550, '+'),
            (Serving, false, false, 250, 250, '-'),
            (Serving, false, false, 250, 450, '?'),
            (Serving, false, false, 550, 550, '-'),
            (Serving, false, false, 451, 550, '?'),
            (Serving, false, false, 451, 250, '-'),
            (Serving, false, false, 554, 554, '-'),
            (Serving, true, false, 250, 250, '+'),
            (Serving, true, false, 250, 550, '-'),
            (Serving, false, true, 250, 450, '+'),
            (Serving, false, true, 250, 550, '-'),
            (Serving, true, true, 250, 250, '+'),
            (Draining, false, false, 250, 450, '+'),
            (Draining, false, false, 450, 450, '+'),
            (Draining, false, false, 250, 550, '-'),
            (Draining, true, false, 250, 250, '+'),
        ] {
            let case = asked(state, catch_all);
            assert_eq!(verdict(&case, settling, first, second), expected, "{case:?} {first} {second}");
        }
    }

    #[test]
    fn the_answer_that_failed_is_quoted() {
        let reply = |code| Reply { code, text: "5.1.1 text".into() };
        let case = asked(DomainState::Serving, false);
        let judgement = judge(&case, false, ("RCPT TO:<x>", &reply(550)), ("y", &reply(550)));
        assert_eq!(judgement, Judgement::Failed("RCPT TO:<x>: 550 5.1.1 text".into()));
    }

    #[test]
    fn only_a_refusal_is_no_relay() {
        let reply = |code| Reply { code, text: String::new() };
        for (settling, code, expected) in [
            (false, 554, "Refused"),
            (false, 550, "Refused"),
            (true, 454, "Refused"),
            (false, 454, "Broken"),
            (false, 250, "Open"),
            (true, 251, "Open"),
            (true, 451, "Broken"),
            (false, 451, "Broken"),
            (false, 452, "NotNow"),
            (false, 421, "NotNow"),
        ] {
            let relay = judge_relay(settling, "q", &reply(code));
            assert!(format!("{relay:?}").starts_with(expected), "{code}: {relay:?}");
        }
    }
}
