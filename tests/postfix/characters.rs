//! Every character that an address may hold, through postmap(1) and cleanup(8): what goes into a table comes out as
//! itself, and mail for it goes where it says.
//!
//! cleanup(8) reads the result of an alias as addresses of a header are read (RFC 5322), so that a table may hold
//! an entry exactly and mail still go elsewhere.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;

use serde::Deserialize;
use vmail_operator::api::address::Address;
use vmail_operator::api::{MailAliasSpec, MailDomainSpec};
use vmail_operator::config::Config;
use vmail_operator::directory::{AliasSpec, Directory, Object, ObjectId, Objects, Rules};
use vmail_operator::postfix::tables::tables;

use crate::pod::{Pod, wait};
use crate::revision::{HOST, Wanted};

const DOMAIN: &str = "one.example";

/// What looks like something else to a shell, a table, a `main.cf` or a header.
const SUSPECTS: [&str; 14] = [
    "O'Brien",
    "a$x",
    "a$myhostname",
    "a${x}b",
    "a{b}",
    "a{{b}}",
    "a#b",
    "a*b?",
    "x^y",
    "_x",
    "a'b'c",
    "A.B-c",
    "a+b+c",
    "a&b#c$d*e",
];

/// Local parts with each ASCII character besides letters and digits, at each place; those alone that `let_in` lets in.
/// They come from the grammar itself, so that a wider one is asked for more.
fn locals(let_in: impl Fn(&str) -> bool) -> Vec<String> {
    let characters = ('!'..='~').filter(char::is_ascii_punctuation);
    let everywhere = characters.flat_map(|c| {
        [format!("a{c}b"), format!("{c}a"), format!("a{c}"), format!("a{c}{c}b"), c.to_string()]
    });
    let all: BTreeSet<String> = everywhere.chain(SUSPECTS.map(str::to_owned)).collect();
    all.into_iter().filter(|local| let_in(local)).collect()
}

fn object<S>(spec: S) -> Object<S> {
    Object { created: 0, changed: 0, deleting: false, spec: Ok(spec) }
}

/// A domain with a mailbox for each of `mailboxes`, and an alias for each of `aliases`.
fn directory(mailboxes: &BTreeSet<Address>, aliases: &BTreeMap<String, Vec<String>>) -> Directory {
    let config = format!(
        "{{name: vmail, postmaster: hostmaster@remote.example, cells: {{default: {{hostname: {HOST}, pod: p}}}},
          dns: {{powerdns: {{url: 'http://pdns:8081', apiKeyFile: /key}}}}}}"
    );
    let id = |name: String| ObjectId::new("mail", name);
    let domain: MailDomainSpec = serde_yaml::from_str(&format!("domain: {DOMAIN}")).unwrap();
    let alias = |(address, targets): (&String, &Vec<String>)| {
        let spec = MailAliasSpec { address: address.clone(), targets: targets.clone() };
        object(AliasSpec::try_from(&spec).unwrap())
    };
    let objects = Objects {
        domains: [(id(DOMAIN.to_owned()), object(domain))].into(),
        mailboxes: mailboxes
            .iter()
            .map(|address| (id(address.to_string()), object(address.clone())))
            .collect(),
        aliases: aliases.iter().map(|entry| (id(entry.0.clone()), alias(entry))).collect(),
        ..Objects::default()
    };
    let config = Config::parse(&config).unwrap();
    let rules = Rules { config: &config, namespace: "mail", records: &BTreeMap::new() };
    let directory = Directory::compute(&objects, rules);
    let verdicts = directory.mailbox_verdicts.values().chain(directory.alias_verdicts.values());
    for verdict in verdicts {
        assert!(verdict.accepted.is_ok() && verdict.resolved_refs.is_ok(), "{verdict:?}");
    }
    directory
}

/// Everything in a compiled table, as postmap(1) lists it: key, tab, value.
fn listed(pod: &Pod, table: &str) -> BTreeMap<String, String> {
    let text = pod.postfix(&["postmap", "-s", &compiled(table)]);
    let entry = |line: &str| line.split_once('\t').map(|(key, value)| (key.to_owned(), value.to_owned()));
    text.lines().map(|line| entry(line).unwrap_or_else(|| panic!("{table}: {line:?}"))).collect()
}

fn compiled(table: &str) -> String {
    format!("cdb:/run/vmail-operator/postfix/tables/{table}")
}

/// One line of `postqueue -j`.
#[derive(Deserialize)]
struct Queued {
    queue_name: String,
    recipients: Vec<Recipient>,
}

#[derive(Deserialize)]
struct Recipient {
    address: String,
}

/// Who mail is queued for, once nothing of it is on its way any more.
fn deferred(pod: &Pod) -> Vec<String> {
    let text = pod.postfix(&["postqueue", "-j"]);
    let queued: Vec<Queued> = text
        .lines()
        .map(|line| serde_json::from_str(line).unwrap_or_else(|e| panic!("{line}: {e}")))
        .collect();
    let settled = queued.iter().all(|message| message.queue_name == "deferred");
    let recipients = queued.into_iter().flat_map(|message| message.recipients);
    if settled { recipients.map(|recipient| recipient.address).collect() } else { Vec::new() }
}

fn send(pod: &Pod, recipients: &[String]) {
    let mut session = pod.smtp();
    for recipient in recipients {
        let reply = session.rcpt(recipient);
        assert!(reply.starts_with("250"), "{recipient}: {reply}");
    }
    assert!(session.ask("DATA").starts_with("354"));
    let reply = session.ask("Subject: one for each\r\n\r\nhello\r\n.");
    assert!(reply.starts_with("250"), "{reply}");
    session.ask("QUIT");
}

#[test]
fn every_character_that_a_target_may_hold_stays_itself() {
    let targets: Vec<String> = locals(|local| Address::target(&format!("{local}@remote.example")).is_some())
        .into_iter()
        .map(|local| format!("{local}@remote.example"))
        .collect();
    for character in "'*?^{}$#&=~_+-".chars() {
        assert!(targets.iter().any(|target| target.contains(character)), "{character} is not asked about");
    }
    // One alias for each, and two that lead to many: there, commas part the targets.
    let mut aliases: BTreeMap<String, Vec<String>> = targets
        .iter()
        .enumerate()
        .map(|(number, target)| (format!("t{number}@{DOMAIN}"), vec![target.clone()]))
        .collect();
    let each: Vec<String> = aliases.keys().cloned().collect();
    for (number, many) in targets.chunks(100).enumerate() {
        aliases.insert(format!("many{number}@{DOMAIN}"), many.to_vec());
    }
    let many: Vec<String> = aliases.keys().filter(|key| key.starts_with("many")).cloned().collect();

    let directory = directory(&BTreeSet::new(), &aliases);
    let wanted = wanted(&directory);
    let pod = Pod::serving(&wanted);

    let mut expected: BTreeMap<String, String> = aliases
        .iter()
        .map(|(address, targets)| {
            let sorted: BTreeSet<Address> =
                targets.iter().filter_map(|target| Address::target(target)).collect();
            (address.clone(), sorted.iter().map(Address::to_string).collect::<Vec<_>>().join(", "))
        })
        .collect();
    for role in ["postmaster", "abuse", "root"] {
        for domain in [DOMAIN, HOST] {
            expected.insert(format!("{role}@{domain}"), "hostmaster@remote.example".to_owned());
        }
    }
    assert_eq!(listed(&pod, "virtual_alias_maps"), expected);
    for (key, value) in &expected {
        let found = pod.postfix(&["postmap", "-q", key, &compiled("virtual_alias_maps")]);
        assert_eq!(found.trim_end_matches('\n'), value, "{key}");
    }

    // Nobody answers for remote.example here, so that what is sent there stays in the queue.
    let all: BTreeSet<String> = targets.into_iter().collect();
    for recipients in [each, many] {
        pod.postfix(&["postsuper", "-d", "ALL"]);
        send(&pod, &recipients);
        let found = wait("the queue to settle", || Some(deferred(&pod)).filter(|found| !found.is_empty()));
        assert_eq!(found.len(), all.len(), "{found:?}");
        assert_eq!(found.into_iter().collect::<BTreeSet<_>>(), all);
    }
}

#[test]
fn every_character_that_a_mailbox_may_hold_has_its_own_maildir() {
    let own = |local: &str| Address::own(&format!("{local}@{DOMAIN}"));
    let mailboxes: BTreeSet<Address> = locals(|local| own(local).is_some())
        .iter()
        .chain(&["a".repeat(64), "0".to_owned(), "a.b=c~d_e-f".to_owned()])
        .filter_map(|local| own(local))
        .collect();
    assert!(mailboxes.len() > 5, "{mailboxes:?}");
    let pod = Pod::serving(&wanted(&directory(&mailboxes, &BTreeMap::new())));

    let path = |address: &Address| format!("{DOMAIN}/{}/", address.local());
    let expected: BTreeMap<String, String> =
        mailboxes.iter().map(|address| (address.to_string(), path(address))).collect();
    assert_eq!(listed(&pod, "virtual_mailbox_maps"), expected);

    send(&pod, &expected.keys().cloned().collect::<Vec<_>>());
    let arrived = |directory: PathBuf| directory.read_dir().is_ok_and(|mut files| files.next().is_some());
    for path in expected.values() {
        let new = pod.volumes.vmail().join(path).join("new");
        wait(&format!("mail in {path}"), || arrived(new.clone()).then_some(()));
    }
    let made = pod.volumes.vmail().join(DOMAIN).read_dir().unwrap().count();
    assert_eq!(made, mailboxes.len(), "a Maildir for each, and none besides");
}

fn wanted(directory: &Directory) -> Wanted {
    let mut wanted = Wanted::empty();
    wanted.files.extend(tables(directory, "default", HOST, |_| true, &BTreeSet::new(), |_| true));
    wanted
}
