//! Generated sets of objects, one revision after another in one pod: tables entry by entry, answers to RCPT TO, and
//! where mail ends.

use std::collections::{BTreeMap, BTreeSet};

use proptest::prelude::*;
use proptest::sample::select;
use vmail_operator::api::address::Address;
use vmail_operator::custody::CUSTODY_FILE;
use vmail_operator::directory::{Directory, Objects, Rules};
use vmail_operator::postfix::main_cf::TABLES;

use crate::mail::{Ends, ends};
use crate::pod::{Pod, meanwhile};
use crate::reference::Reference;
use crate::revision::Wanted;
use crate::sets::{DOMAINS, HOST, config, probes, sets};
use crate::trial::{Case, cases, holds};

/// What the public listener takes in one session before it delays (smtpd_soft_error_limit).
const QUESTIONS: usize = 10;

pub fn directory(objects: &Objects) -> Directory {
    let config = config();
    Directory::compute(objects, Rules { config, namespace: "mail", records: &BTreeMap::new() })
}

/// Without owners: addresses change hands from set to set, and mail would wait for the archive (`custody.rs`).
fn wanted(directory: &Directory) -> Wanted {
    let mut wanted = Wanted::of(directory, HOST);
    wanted.files.remove(CUSTODY_FILE);
    wanted
}

#[test]
fn tables_and_answers_are_as_intended() {
    each(4, (sets(), strangers()), |pod, (objects, strangers)| {
        let directory = directory(&objects);
        let reference = Reference::of(&objects);
        let revision = wanted(&directory);
        install(pod, &revision);
        let read = read_back(pod);
        for name in TABLES {
            let lines = revision.files[name].lines().map(|line| line.replacen(' ', "\t", 1));
            prop_assert_eq!(&read[name], &lines.collect::<BTreeSet<_>>(), "{}", name);
        }
        let asked: BTreeSet<Address> = probes().into_iter().chain(strangers).collect();
        for (address, reply) in answers(pod, &asked) {
            let accepts = reference.accepts(&address.to_string());
            prop_assert_eq!(directory.accepts(&address), accepts, "{}", address);
            let ours = address.domain() == HOST || directory.domains.contains_key(address.domain());
            let code = match (ours, accepts) {
                (_, true) => "250 ",
                (true, false) => "550 5.1.1 ",
                (false, false) => "554 5.7.1 ",
            };
            prop_assert!(reply.starts_with(code), "{}: {} and not {}", address, reply, code);
        }
        Ok(())
    });
}

#[test]
fn nobody_is_refused_between_two_sets() {
    each(4, [sets(), sets()], |pod, [from, to]| {
        let [before, after] = [&from, &to].map(directory);
        install(pod, &wanted(&before));
        // A session that is open while a domain changes its class has the old maps and the new class.
        let class = |directory: &Directory, address: &Address| {
            directory.domains.get(address.domain()).map(|served| served.spec.class)
        };
        let mut stay = probes();
        stay.retain(|address| {
            before.accepts(address)
                && after.accepts(address)
                && class(&before, address) == class(&after, address)
        });
        let mut answered = Vec::new();
        meanwhile(|| answered.extend(answers(pod, &stay)), || install(pod, &wanted(&after)));
        let refused: BTreeMap<Address, String> =
            answered.into_iter().filter(|(_, reply)| !reply.starts_with("250 ")).collect();
        prop_assert!(refused.is_empty(), "{:#?}", refused);
        Ok(())
    });
}

#[test]
fn mail_ends_where_the_reference_says() {
    each(1, (sets(), strangers()), |pod, (objects, strangers)| {
        let directory = directory(&objects);
        let reference = Reference::of(&objects);
        install(pod, &wanted(&directory));
        let asked = probes().into_iter().chain(strangers).filter(|address| directory.accepts(address));
        let mut wanted: Ends = asked
            .map(|address| address.to_string())
            .map(|text| (text.clone(), reference.ends(&text)))
            .collect();
        // Recipients elsewhere that differ in case alone are one to Postfix, be it the one or the other.
        wanted.retain(|_, ends| {
            let folded = ends.iter().map(|end| format!("{end:?}").to_lowercase());
            folded.collect::<BTreeSet<_>>().len() == ends.len()
        });
        prop_assert_eq!(ends(pod, &wanted), wanted);
        Ok(())
    });
}

/// A property of sets that are brought into one pod, one after the other. `VMAIL_SETS` says how often it is tried; those
/// that take less time, `times` as often.
fn each<C: Case>(
    times: u32,
    generated: impl Strategy<Value = C>,
    property: impl Fn(&Pod, C) -> Result<(), TestCaseError>,
) {
    let pod = Pod::serving(&wanted(&directory(&Objects::default())));
    holds(times * cases("VMAIL_SETS", 25), generated, |case| property(&pod, case));
}

/// Addresses that nobody thought of.
fn strangers() -> impl Strategy<Value = Vec<Address>> {
    let mut domains = DOMAINS.to_vec();
    domains.extend(["sub.one.example", "one.example.org", "xn--one.example"]);
    let local = prop_oneof![
        4 => "[a-z0-9]([a-z0-9._=~-]{0,8}[a-z0-9])?(\\+[a-z0-9]{0,3}){0,2}",
        1 => "[A-Za-z0-9_][A-Za-z0-9._=~+&*?^{}$#'-]{0,8}",
        1 => select(vec!["mailer-daemon", "double-bounce", "MAILER-DAEMON+x", "owner-u", "u-request", "_+u"])
            .prop_map(str::to_owned),
    ];
    let one = (local, select(domains))
        .prop_filter_map("no address", |(local, domain)| Address::target(&format!("{local}@{domain}")));
    prop::collection::vec(one, 20)
}

/// Brings in a revision, and waits until it is live.
pub fn install(pod: &Pod, wanted: &Wanted) {
    wanted.mount(&pod.volumes.revision());
    pod.wait_for_revision(wanted);
}

/// What a stranger is answered for each address.
fn answers<'a>(pod: &Pod, addresses: impl IntoIterator<Item = &'a Address>) -> Vec<(Address, String)> {
    let addresses: Vec<_> = addresses.into_iter().cloned().collect();
    let sessions = addresses.chunks(QUESTIONS).map(|some| {
        let mut session = pod.smtp();
        let some = some.iter().map(|address| (address.clone(), session.rcpt(&address.to_string())));
        some.collect::<Vec<_>>()
    });
    sessions.flatten().collect()
}

/// The entries of each live table: the same whether postmap(1) lists them or is asked for each key.
fn read_back(pod: &Pod) -> BTreeMap<&'static str, BTreeSet<String>> {
    let read = |name| {
        let table = format!("cdb:/run/vmail-operator/postfix/tables/{name}");
        let listed = pod.postfix(&["postmap", "-s", &table]);
        let ask = "printf %s \"$1\" | cut -f1 | postmap -q - \"$2\"";
        assert_eq!(pod.postfix(&["sh", "-c", ask, "sh", &listed, &table]), listed, "{name}");
        (name, listed.lines().map(str::to_owned).collect())
    };
    TABLES.map(read).into()
}
