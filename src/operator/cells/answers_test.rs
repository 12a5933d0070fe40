use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use tokio::time::Instant;

use crate::api::MailDomainSpec;
use crate::api::address::Address;
use crate::api::conditions::Reason;
use crate::config::Config;
use crate::directory::{Change, Directory, Object, ObjectId, Refusal, ServedDomain, Verdict};
use crate::operator::cells::{Cell, SOON};
use crate::operator::desired_status::View;
use crate::operator::index::{Index, Kind};
use crate::revision::{DomainState, Rejected, Report};

fn config() -> Config {
    Config::parse(
        "
name: vmail
postmaster: hostmaster@elsewhere.example
cells: {default: {hostname: mail.example.test, pod: vmail-postfix-default-0}}
dns: {powerdns: {url: 'http://pdns:8081', apiKeyFile: /etc/pdns/api-key}}
",
    )
    .expect("valid")
}

fn own(text: &str) -> Address {
    Address::own(text).expect("valid")
}

fn serving(mailboxes: &[&str]) -> Directory {
    let spec: MailDomainSpec = serde_yaml::from_str("domain: a.example").expect("valid");
    let served =
        ServedDomain { state: DomainState::Serving, claim: None, namespace: "mail".to_owned(), spec };
    let mailboxes = mailboxes.iter().map(|text| (own(text), ObjectId::new("mail", *text)));
    Directory {
        domains: [("a.example".to_owned(), served)].into(),
        mailboxes: mailboxes.collect(),
        ..Directory::default()
    }
}

/// A cell with its directory, and what the agent has.
struct World {
    cell: Cell,
    config: Config,
    directory: Arc<Directory>,
}

impl World {
    fn new() -> Self {
        let config = config();
        let cell = Cell::new("default", &config.cells["default"]);
        Self { cell, config, directory: Arc::new(Directory::default()) }
    }

    fn change(&mut self, mailboxes: &[&str], now: Instant) {
        let next = Arc::new(serving(mailboxes));
        self.cell.changed(&Change::between(&self.directory, &next), now);
        self.directory = next;
    }

    /// Writes what is wanted; its revision.
    fn write(&mut self, now: Instant) -> String {
        let rendered =
            self.cell.render(&self.directory, &|_| true, &self.config, false, now).expect("rendered");
        let revision = rendered.packed.index.revision.clone();
        self.cell.stands(rendered, Some(now));
        revision
    }

    fn answer(&mut self, live: &str, rejected: Option<&str>) {
        let rejected =
            rejected.map(|revision| Rejected { revision: revision.to_owned(), ..Rejected::default() });
        let report = Report { revision: Some(live.to_owned()), rejected, ..Report::default() };
        self.cell.hear(Ok(report));
    }

    fn looks_at(&mut self) -> Vec<String> {
        self.cell.take_look().addresses.iter().map(Address::to_string).collect()
    }
}

#[test]
fn an_answer_is_waited_for_from_the_first_change_that_it_lacks() {
    let (mut world, now) = (World::new(), Instant::now());
    let second = Duration::from_secs(1);
    world.change(&["one@a.example"], now);
    let first = world.write(now);
    assert!(!world.cell.comes_soon(now), "nobody knows whether there is an agent");
    world.answer(&first, None);
    assert_eq!(world.cell.behind_since(), None);
    assert!(!world.cell.comes_soon(now), "nothing is to come");

    world.change(&["one@a.example", "two@a.example"], now + second);
    let second_revision = world.write(now + 2 * second);
    world.change(&["one@a.example", "two@a.example", "three@a.example"], now + 3 * second);
    assert_eq!(world.cell.behind_since(), Some(now + second));
    assert!(world.cell.comes_soon(now + SOON) && !world.cell.comes_soon(now + SOON + second));
    assert!(world.cell.next_look(now).is_some_and(|at| at <= now + SOON + second));

    // The second is there: what waits now began later.
    world.answer(&second_revision, None);
    assert_eq!(world.cell.behind_since(), Some(now + 3 * second));
    assert!(world.cell.comes_soon(now + SOON));
    let third = world.write(now + SOON);
    world.answer(&second_revision, Some(&third));
    assert!(!world.cell.comes_soon(now + SOON), "it was refused");
    world.cell.hear(Err("no route".to_owned()));
    assert!(!world.cell.comes_soon(now + SOON), "nobody answers");
    world.answer(&third, None);
    assert_eq!(world.cell.behind_since(), None);
}

#[test]
fn what_is_live_is_looked_at_and_what_is_still_to_come_is_not() {
    let (mut world, now) = (World::new(), Instant::now());
    world.change(&[], now);
    let empty = world.write(now);
    world.answer(&empty, None);
    world.looks_at();
    world.change(&["one@a.example"], now);
    let one = world.write(now);
    world.change(&["one@a.example", "two@a.example"], now);
    let two = world.write(now);
    assert_eq!(world.looks_at(), ["one@a.example", "two@a.example"], "what changed");
    let expected: [(_, &[&str]); 4] =
        [(&empty, &[]), (&one, &["one@a.example"]), (&two, &["two@a.example"]), (&two, &[])];
    for (live, looks_at) in expected {
        world.answer(live, None);
        assert_eq!(world.looks_at(), looks_at);
    }
}

#[test]
fn a_status_waits_where_it_would_only_say_that_something_is_on_its_way() {
    let (mut world, now) = (World::new(), Instant::now());
    world.change(&[], now);
    let empty = world.write(now);
    world.answer(&empty, None);
    world.change(&["one@a.example"], now);

    let id = ObjectId::new("mail", "one@a.example");
    let object = Object { created: 0, changed: 0, deleting: false, spec: Ok(own("one@a.example")) };
    let mut index = Index::new("mail");
    index.objects.mailboxes.insert(id.clone(), object);
    let said = |accepted: Result<(), Refusal>| {
        let verdict = Verdict { accepted, warning: None, resolved_refs: Ok(()), domain: None };
        let mut directory = Directory::clone(&world.directory);
        directory.mailbox_verdicts.insert(id.clone(), Arc::new(verdict));
        directory
    };
    let accepted = said(Ok(()));
    let refused = said(Err(Refusal::new(Reason::AddressConflict, "")));
    let cells = BTreeMap::from([("default".to_owned(), world.cell)]);
    let waits = |directory: &Directory, soon: &[&str], kind: Kind| {
        let (domains, publications) = (BTreeMap::new(), BTreeMap::new());
        let soon = soon.iter().copied().collect();
        let (now, cells) = (Timestamp::UNIX_EPOCH, &cells);
        let view =
            View { directory, cells, domains: &domains, publications: &publications, now, soon: &soon };
        view.comes_soon(&(kind, id.clone()), &index)
    };
    assert!(waits(&accepted, &["default"], Kind::Mailbox));
    assert!(!waits(&accepted, &[], Kind::Mailbox), "its agent is late");
    assert!(!waits(&refused, &["default"], Kind::Mailbox), "it will not come");
    assert!(!waits(&accepted, &["default"], Kind::Domain), "there are few of them");
    let elsewhere = Directory { domains: BTreeMap::new(), ..accepted };
    assert!(!waits(&elsewhere, &["default"], Kind::Mailbox), "its domain is in no cell");
}
