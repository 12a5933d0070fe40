//! The rules one by one. What holds for any set of objects is in tests/directory.

use std::collections::{BTreeMap, BTreeSet};

use jiff::Timestamp;

use super::*;
use crate::api::DomainClass;
use crate::config::Right;
use crate::records::Phase;

fn config() -> Config {
    Config::parse(
        "
name: vmail
postmaster: hostmaster@elsewhere.example
cells: {default: {hostname: mail.example.test, pod: vmail-postfix-default-0}}
tenancy: {rules: [{namespaces: ['*'], domains: [example.org, example.net, one.example, two.example]}]}
dns: {powerdns: {url: 'http://pdns:8081', apiKeyFile: /etc/pdns/api-key}}
",
    )
    .expect("valid")
}

/// Builds sets of objects. The second part of `namespace/name` is also the age: `a/3` is older than `b/4`.
#[derive(Default)]
struct Set(Objects);

fn id(text: &str) -> ObjectId {
    let (namespace, name) = text.split_once('/').expect("namespace/name");
    ObjectId::new(namespace, name)
}

fn object<S>(id: &ObjectId, spec: S) -> Object<S> {
    let created = id.name().parse().expect("a number");
    Object { created, changed: created, deleting: false, spec: Ok(spec) }
}

impl Set {
    fn domain(mut self, name: &str, yaml: &str) -> Self {
        let id = id(name);
        let spec = serde_yaml::from_str(yaml).expect("a spec");
        self.0.domains.insert(id.clone(), object(&id, spec));
        self
    }

    fn mailbox(mut self, name: &str, address: &str) -> Self {
        let id = id(name);
        self.0.mailboxes.insert(id.clone(), object(&id, Address::own(address).expect("valid")));
        self
    }

    fn alias(mut self, name: &str, address: &str, targets: &[&str]) -> Self {
        let id = id(name);
        let spec = AliasSpec {
            address: Address::own(address).expect("valid"),
            targets: targets.iter().map(|target| Address::target(target).expect("valid")).collect(),
        };
        self.0.aliases.insert(id.clone(), object(&id, spec));
        self
    }

    /// Says that an alias was edited later than it was created.
    fn edited(mut self, name: &str, second: i64) -> Self {
        let alias = self.0.aliases.get_mut(&id(name)).expect("an alias");
        alias.changed = second;
        self
    }

    fn compute(&self) -> Directory {
        self.with_records(&BTreeMap::new())
    }

    fn with_records(&self, records: &BTreeMap<String, Record>) -> Directory {
        let config = config();
        Directory::compute(&self.0, Rules { config: &config, namespace: "mail", records })
    }
}

const ORG: &str = "domain: example.org";

fn reason(verdicts: &Verdicts, name: &str) -> Option<Reason> {
    verdicts[&id(name)].accepted.as_ref().err().map(|refusal| refusal.reason)
}

fn targets(directory: &Directory, address: &str) -> Vec<String> {
    let targets = directory.aliases.get(&Address::own(address).expect("valid"));
    targets.into_iter().flatten().map(Address::to_string).collect()
}

#[test]
fn the_older_claim_wins_and_the_younger_is_told_by_whom() {
    let directory = Set::default().domain("a/2", ORG).domain("b/1", ORG).domain("b/3", ORG).compute();
    assert_eq!(reason(&directory.domain_verdicts, "b/1"), None);
    let told = |name| directory.domain_verdicts[&id(name)].accepted.clone().expect_err("refused").message;
    assert!(told("a/2").contains("a MailDomain in namespace b"), "{}", told("a/2"));
    assert!(!told("a/2").contains("b/1"), "a stranger's name is not told");
    assert!(told("b/3").contains("MailDomain 1"), "{}", told("b/3"));
    assert_eq!(directory.domains["example.org"].claim, Some(id("b/1")));
}

#[test]
fn the_incumbent_wins_over_the_older_one() {
    let record = Record::new("example.org", "a", serde_yaml::from_str(ORG).expect("a spec"));
    let records = BTreeMap::from([("example.org".to_owned(), record)]);
    let directory = Set::default().domain("a/2", ORG).domain("b/1", ORG).with_records(&records);
    assert_eq!(directory.domains["example.org"].claim, Some(id("a/2")));
    assert_eq!(reason(&directory.domain_verdicts, "b/1"), Some(Reason::DomainConflict));
}

#[test]
fn a_domain_on_its_way_out_stays_with_its_namespace() {
    let record = Record {
        phase: Phase::Draining { until: Timestamp::MAX },
        ..Record::new("example.org", "a", serde_yaml::from_str(ORG).expect("a spec"))
    };
    let records = BTreeMap::from([("example.org".to_owned(), record)]);
    let set =
        Set::default().domain("b/1", ORG).mailbox("a/3", "you@example.org").mailbox("b/2", "me@example.org");
    let directory = set.with_records(&records);
    assert_eq!(reason(&directory.domain_verdicts, "b/1"), Some(Reason::DomainConflict));
    let served = &directory.domains["example.org"];
    assert_eq!((served.state, &served.claim, served.namespace.as_str()), (DomainState::Draining, &None, "a"));
    assert_eq!(
        directory.mailboxes.values().collect::<Vec<_>>(),
        [&id("a/3")],
        "its mail is accepted while it drains"
    );
    assert_eq!(reason(&directory.mailbox_verdicts, "a/3"), Some(Reason::DomainNotFound));
    let back = set.domain("a/9", ORG).with_records(&records);
    assert_eq!(back.domains["example.org"].claim, Some(id("a/9")));
}

#[test]
fn another_class_or_cell_waits_until_the_domain_is_withdrawn() {
    for other in ["class: Alias", "cell: second"] {
        waits_until_the_domain_is_withdrawn(other);
    }
}

fn waits_until_the_domain_is_withdrawn(other: &str) {
    let set = Set::default().domain("a/1", &format!("{{domain: example.org, {other}}}"));
    let judge = |phase: Phase| {
        let spec = serde_yaml::from_str(ORG).expect("a spec");
        let record = Record { phase, ..Record::new("example.org", "a", spec) };
        let records = BTreeMap::from([("example.org".to_owned(), record)]);
        let mut config = config();
        config.cells.insert("second".to_owned(), config.cells["default"].clone());
        Directory::compute(&set.0, Rules { config: &config, namespace: "mail", records: &records })
    };
    for phase in [Phase::Serving, Phase::Draining { until: Timestamp::MAX }] {
        let directory = judge(phase);
        assert_eq!(reason(&directory.domain_verdicts, "a/1"), Some(Reason::Pending));
        let served = &directory.domains["example.org"];
        assert_eq!(
            (&served.claim, served.spec.class, served.spec.cell.as_str()),
            (&None, DomainClass::Mailbox, "default"),
            "queued mail is delivered"
        );
    }
    let served = &judge(Phase::Leaving).domains["example.org"];
    assert!(served.spec.class == DomainClass::Alias || served.spec.cell == "second");
}

#[test]
fn what_is_taken_out_of_service_is_served_for_nobody() {
    let spec = serde_yaml::from_str(ORG).expect("a spec");
    let serving = Record { withdraw: true, ..Record::new("example.org", "a", spec) };
    let set = Set::default().domain("a/1", ORG).domain("mail/2", ORG).mailbox("a/3", "you@example.org");
    let judge = |record: &Record| {
        let directory = set.with_records(&BTreeMap::from([("example.org".to_owned(), record.clone())]));
        for id in ["a/1", "mail/2"] {
            assert_eq!(reason(&directory.domain_verdicts, id), Some(Reason::Withdrawn));
        }
        directory
    };
    let directory = judge(&serving);
    let served = &directory.domains["example.org"];
    assert_eq!((served.state, &served.claim), (DomainState::Draining, &None));
    assert_eq!(directory.mailboxes.len(), 1, "its mail is accepted while it drains");
    let out = Record { phase: Phase::Withdrawn { check: Timestamp::UNIX_EPOCH }, ..serving.clone() };
    assert!(judge(&out).domains.is_empty());

    // Nor for a MailDomain that this version cannot decode.
    let mut unreadable = set;
    unreadable.0.domains.clear();
    unreadable.0.undecodable.insert(id("a/1"), "example.org".to_owned());
    let directory = unreadable.with_records(&BTreeMap::from([("example.org".to_owned(), serving)]));
    assert_eq!(directory.domains["example.org"].claim, None);
}

#[test]
fn tenancy_is_asked_for_new_claims_alone() {
    let spec = "domain: other.example";
    let set = Set::default().domain("a/1", spec).domain("mail/2", spec);
    let directory = set.compute();
    assert_eq!(reason(&directory.domain_verdicts, "a/1"), Some(Reason::DomainNotPermitted));
    assert_eq!(reason(&directory.domain_verdicts, "mail/2"), None, "the installation's own namespace may");
    let record = Record::new("other.example", "a", serde_yaml::from_str(spec).expect("a spec"));
    let directory = set.with_records(&BTreeMap::from([("other.example".to_owned(), record)]));
    assert_eq!(reason(&directory.domain_verdicts, "a/1"), None, "what is served is not taken away");
}

#[test]
fn staying_unpublished_is_a_right() {
    let spec = "{domain: example.org, dns: {managed: false}}";
    let set = Set::default().domain("a/1", spec);
    assert_eq!(reason(&set.compute().domain_verdicts, "a/1"), Some(Reason::DomainNotPermitted));
    assert_eq!(reason(&Set::default().domain("mail/1", spec).compute().domain_verdicts, "mail/1"), None);
    let record = Record::new("example.org", "a", serde_yaml::from_str(ORG).expect("a spec"));
    let directory = set.with_records(&BTreeMap::from([("example.org".to_owned(), record)]));
    assert_eq!(reason(&directory.domain_verdicts, "a/1"), None, "what is served stays");
    let mut config = config();
    config.tenancy.rules[0].rights = vec![Right::Unmanaged];
    let directory =
        Directory::compute(&set.0, Rules { config: &config, namespace: "mail", records: &BTreeMap::new() });
    assert_eq!(reason(&directory.domain_verdicts, "a/1"), None);
}

#[test]
fn names_that_cannot_be_served() {
    let directory = Set::default()
        .domain("mail/1", "domain: mail.example.test")
        .domain("mail/2", "{domain: example.org, cell: moon}")
        .compute();
    assert_eq!(reason(&directory.domain_verdicts, "mail/1"), Some(Reason::ReservedDomain));
    assert_eq!(reason(&directory.domain_verdicts, "mail/2"), Some(Reason::CellNotFound));
    assert!(directory.domains.is_empty());
}

#[test]
fn who_may_join() {
    for (allowed, joins) in [
        ("{}", false),
        ("{from: All}", true),
        ("{from: Names, names: [b]}", true),
        ("{from: Names, names: [c]}", false),
    ] {
        let spec = format!("{{domain: example.org, allowedNamespaces: {allowed}}}");
        let directory = Set::default()
            .domain("a/1", &spec)
            .mailbox("b/2", "you@example.org")
            .mailbox("b/3", "admin@example.org")
            .compute();
        let expected = (!joins).then_some(Reason::NotAllowedByDomain);
        assert_eq!(reason(&directory.mailbox_verdicts, "b/2"), expected, "{allowed}");
        let expected = if joins { Reason::RestrictedAddress } else { Reason::NotAllowedByDomain };
        assert_eq!(reason(&directory.mailbox_verdicts, "b/3"), Some(expected), "{allowed}");
    }
}

#[test]
fn addresses_without_a_domain_wait_for_it() {
    let set = Set::default().mailbox("a/1", "you@example.org");
    assert_eq!(reason(&set.compute().mailbox_verdicts, "a/1"), Some(Reason::DomainNotFound));
    let set = set.domain("a/2", ORG);
    assert_eq!(reason(&set.compute().mailbox_verdicts, "a/1"), None);
}

#[test]
fn one_address_has_one_owner() {
    let directory = Set::default()
        .domain("a/1", ORG)
        .mailbox("a/3", "you@example.org")
        .mailbox("a/2", "you@example.org")
        .alias("a/5", "list@example.org", &["you@example.org"])
        .alias("a/4", "list@example.org", &["x@remote.example"])
        .compute();
    assert_eq!(reason(&directory.mailbox_verdicts, "a/3"), Some(Reason::AddressConflict));
    assert_eq!(reason(&directory.alias_verdicts, "a/5"), Some(Reason::AddressConflict));
    assert_eq!(targets(&directory, "list@example.org"), ["x@remote.example"]);
}

#[test]
fn an_alias_takes_no_mailbox_away() {
    let directory = Set::default()
        .domain("a/1", "{domain: example.org, allowedNamespaces: {from: All}}")
        .mailbox("a/2", "you@example.org")
        .mailbox("a/3", "me@example.org")
        .alias("a/4", "you@example.org", &["x@remote.example"])
        .alias("a/5", "me@example.org", &["me@example.org", "x@remote.example"])
        .alias("b/6", "you@example.org", &["you@example.org", "thief@remote.example"])
        .compute();
    assert_eq!(reason(&directory.alias_verdicts, "a/4"), Some(Reason::ShadowsMailbox));
    assert_eq!(reason(&directory.alias_verdicts, "b/6"), Some(Reason::ShadowsMailbox));
    assert_eq!(reason(&directory.alias_verdicts, "a/5"), None);
    assert_eq!(targets(&directory, "me@example.org"), ["me@example.org", "x@remote.example"]);
    assert!(targets(&directory, "you@example.org").is_empty());
}

#[test]
fn only_the_youngest_of_a_cycle_is_refused() {
    let set = Set::default()
        .domain("a/1", ORG)
        .alias("a/2", "a@example.org", &["b@example.org", "x@remote.example"])
        .alias("a/3", "b@example.org", &["c+tag@example.org", "y@remote.example"]);
    let before = set.compute();
    assert_eq!(targets(&before, "a@example.org"), ["b@example.org", "x@remote.example"]);
    let after = set.alias("a/4", "c@example.org", &["a@example.org"]).compute();
    assert_eq!(reason(&after.alias_verdicts, "a/4"), Some(Reason::AliasLoop));
    assert_eq!(after.aliases, before.aliases);
}

#[test]
fn an_edit_that_closes_a_cycle_falls_on_who_made_it() {
    let set = Set::default()
        .domain("a/1", "{domain: example.org, allowedNamespaces: {from: All}}")
        .alias("b/2", "b@example.org", &["c@example.org"])
        .alias("c/3", "c@example.org", &["b@example.org", "x@remote.example"]);
    assert_eq!(reason(&set.compute().alias_verdicts, "c/3"), Some(Reason::AliasLoop));
    let directory = set.edited("b/2", 9).compute();
    assert_eq!(reason(&directory.alias_verdicts, "b/2"), Some(Reason::AliasLoop));
    assert_eq!(reason(&directory.alias_verdicts, "c/3"), None);
    assert_eq!(targets(&directory, "c@example.org"), ["x@remote.example"]);
}

#[test]
fn an_address_belongs_to_the_namespace_that_declared_it_first() {
    let domain = || Set::default().domain("a/1", "{domain: example.org, allowedNamespaces: {from: All}}");
    let directory = domain()
        .alias("b/2", "list@example.org", &["x@remote.example"])
        .mailbox("c/3", "list@example.org")
        .compute();
    assert_eq!(reason(&directory.mailbox_verdicts, "c/3"), Some(Reason::AddressConflict));
    assert_eq!(targets(&directory, "list@example.org"), ["x@remote.example"]);
    // One's own alias cannot keep a mailbox from its mail, however old it is.
    let directory = domain()
        .alias("b/2", "list@example.org", &["x@remote.example"])
        .mailbox("b/3", "list@example.org")
        .compute();
    assert_eq!(reason(&directory.alias_verdicts, "b/2"), Some(Reason::ShadowsMailbox));
    assert_eq!(reason(&directory.mailbox_verdicts, "b/3"), None);
}

#[test]
fn an_alias_domain_has_no_mailboxes() {
    let directory = Set::default()
        .domain("a/1", "{domain: example.org, class: Alias, catchAll: list@example.org}")
        .mailbox("a/2", "you@example.org")
        .alias("a/3", "list@example.org", &["x@remote.example"])
        .compute();
    assert_eq!(reason(&directory.mailbox_verdicts, "a/2"), Some(Reason::WrongDomainClass));
    assert_eq!(targets(&directory, "list@example.org"), ["x@remote.example"]);
    assert!(directory.accepts(&Address::own("you@example.org").expect("valid")), "the catch-all takes it");
}

#[test]
fn a_catch_all_needs_somebody_behind_it_here() {
    let domain = |target: &str| {
        Set::default()
            .domain("a/1", &format!("{{domain: example.org, catchAll: {target}}}"))
            .mailbox("a/2", "you@example.org")
    };
    let refused = |set: Set| {
        let directory = set.compute();
        let said =
            directory.domain_verdicts[&id("a/1")].resolved_refs.clone().err().map(|refusal| refusal.reason);
        (said, directory.catch_all("example.org").map(Address::to_string))
    };
    assert_eq!(refused(domain("you@example.org")), (None, Some("you@example.org".to_owned())));
    assert_eq!(refused(domain("nobody@example.org")), (Some(Reason::TargetNotFound), None));
    assert_eq!(refused(domain("you@remote.example")), (Some(Reason::TargetNotFound), None));
    let round = domain("list@example.org").alias("a/3", "list@example.org", &["unknown@example.org"]);
    assert_eq!(refused(round), (Some(Reason::AliasLoop), None));
}

#[test]
fn quotas_are_counted_for_each_namespace() {
    let mut config = config();
    let quotas =
        "[{namespaces: [b], mailboxes: 1, domains: 1, aliasTargets: 2}, {namespaces: ['*'], mailboxes: 2}]";
    config.tenancy.quotas = serde_yaml::from_str(quotas).expect("quotas");
    let set = Set::default()
        .domain("b/1", "{domain: example.org, allowedNamespaces: {from: All}}")
        .domain("b/2", "domain: example.net")
        .mailbox("b/3", "b1@example.org")
        .mailbox("b/4", "b2@example.org")
        .mailbox("c/5", "c1@example.org")
        .mailbox("c/6", "c2@example.org")
        .alias("b/7", "two@example.org", &["x@remote.example", "y@remote.example"])
        .alias("b/8", "one@example.org", &["x@remote.example"])
        .alias("c/9", "three@example.org", &["x@remote.example", "y@remote.example", "z@remote.example"]);
    let with = |records: &BTreeMap<String, Record>| {
        Directory::compute(&set.0, Rules { config: &config, namespace: "mail", records })
    };
    let directory = with(&BTreeMap::new());
    let full = Some(Reason::CapacityExceeded);
    assert_eq!(["b/1", "b/2"].map(|name| reason(&directory.domain_verdicts, name)), [None, full]);
    let mailboxes = ["b/3", "b/4", "c/5", "c/6"].map(|name| reason(&directory.mailbox_verdicts, name));
    assert_eq!(mailboxes, [None, full, None, None]);
    let aliases = ["b/7", "b/8", "c/9"].map(|name| reason(&directory.alias_verdicts, name));
    assert_eq!(aliases, [None, full, None]);
    // What is served is not taken away.
    let record =
        Record::new("example.net", "b", serde_yaml::from_str("domain: example.net").expect("a spec"));
    let directory = with(&BTreeMap::from([("example.net".to_owned(), record)]));
    assert_eq!(["b/1", "b/2"].map(|name| reason(&directory.domain_verdicts, name)), [full, None]);
}

#[test]
fn an_alias_to_itself_needs_a_mailbox() {
    let directory =
        Set::default().domain("a/1", ORG).alias("a/2", "a@example.org", &["a@example.org"]).compute();
    assert_eq!(reason(&directory.alias_verdicts, "a/2"), Some(Reason::AliasLoop));
}

#[test]
fn an_expansion_stays_below_the_limit_of_postfix() {
    let mut set = Set::default().domain("a/0", ORG);
    for list in 0..11 {
        let targets: Vec<String> = (0..95).map(|n| format!("u{n}@l{list}.example")).collect();
        let targets: Vec<&str> = targets.iter().map(String::as_str).collect();
        set = set.alias(&format!("a/{}", 10 + list), &format!("l{list}@example.org"), &targets);
    }
    let all: Vec<String> = (0..11).map(|list| format!("l{list}@example.org")).collect();
    let all: Vec<&str> = all.iter().map(String::as_str).collect();
    let directory = set.alias("a/5", "all@example.org", &all).compute();
    assert_eq!(reason(&directory.alias_verdicts, "a/5"), None, "the older one stays");
    let refused = (10..21)
        .filter(|n| reason(&directory.alias_verdicts, &format!("a/{n}")) == Some(Reason::AliasTooLarge));
    assert_eq!(refused.collect::<Vec<_>>(), [20]);
}

/// Postfix expands it once more for an address with a tag.
#[test]
fn a_copy_counts_twice() {
    let targets: Vec<String> = (0..99).map(|n| format!("u{n}@remote.example")).collect();
    let targets: Vec<&str> = targets.iter().map(String::as_str).collect();
    let mut set = Set::default().domain("a/0", ORG).mailbox("a/1", "copy@example.org");
    for list in 0..6 {
        set = set.alias(&format!("a/{}", 10 + list), &format!("l{list}@example.org"), &targets);
    }
    let lists: Vec<String> = (0..6).map(|list| format!("l{list}@example.org")).collect();
    let lists: Vec<&str> = lists.iter().map(String::as_str).chain(["copy@example.org"]).collect();
    let directory =
        set.alias("a/20", "all@example.org", &lists[..6]).alias("a/21", "copy@example.org", &lists);
    let directory = directory.compute();
    assert_eq!(reason(&directory.alias_verdicts, "a/20"), None);
    assert_eq!(reason(&directory.alias_verdicts, "a/21"), Some(Reason::AliasTooLarge));
}

#[test]
fn targets_with_nobody_behind_are_left_out() {
    let directory = Set::default()
        .domain("a/1", ORG)
        .mailbox("a/2", "you@example.org")
        .alias("a/3", "some@example.org", &["you+list@example.org", "nobody@example.org", "x@remote.example"])
        .alias("a/4", "none@example.org", &["nobody@example.org"])
        .alias("a/5", "chain@example.org", &["none@example.org"])
        .compute();
    assert_eq!(targets(&directory, "some@example.org"), ["you+list@example.org", "x@remote.example"]);
    for name in ["a/3", "a/4", "a/5"] {
        let refusal = directory.alias_verdicts[&id(name)].resolved_refs.clone().expect_err("dangling");
        assert_eq!(refusal.reason, Reason::TargetNotFound);
    }
    assert!(!directory.accepts(&Address::own("none@example.org").expect("valid")));
    assert!(
        !directory.accepts(&Address::own("chain@example.org").expect("valid")),
        "the sender is told at once"
    );
}

#[test]
fn role_addresses_go_where_the_postmaster_is() {
    let role = |set: Set, address: &str| targets(&set.compute(), address);
    let plain = || Set::default().domain("a/1", ORG);
    for local in ["postmaster", "abuse", "root"] {
        assert_eq!(role(plain(), &format!("{local}@example.org")), ["hostmaster@elsewhere.example"]);
        assert_eq!(role(plain(), &format!("{local}@mail.example.test")), ["hostmaster@elsewhere.example"]);
    }
    let own = || Set::default().domain("a/1", "{domain: example.org, postmaster: chief@example.org}");
    assert_eq!(role(own(), "abuse@example.org"), ["hostmaster@elsewhere.example"], "nobody is behind it");
    assert!(own().compute().domain_verdicts[&id("a/1")].resolved_refs.is_err());
    let dead = || plain().alias("a/2", "postmaster@example.org", &["gone@example.org"]);
    assert_eq!(role(dead(), "postmaster@example.org"), ["hostmaster@elsewhere.example"]);
    assert_eq!(role(dead(), "abuse@example.org"), ["hostmaster@elsewhere.example"]);
    assert!(dead().compute().alias_verdicts[&id("a/2")].resolved_refs.is_err());
    assert_eq!(role(own().mailbox("a/2", "chief@example.org"), "abuse@example.org"), ["chief@example.org"]);
    let mailbox = || plain().mailbox("a/2", "postmaster@example.org");
    assert_eq!(role(mailbox(), "abuse@example.org"), ["postmaster@example.org"]);
    assert!(role(mailbox(), "postmaster@example.org").is_empty());
    let declared = plain().alias("a/2", "abuse@example.org", &["x@remote.example"]);
    assert_eq!(role(declared, "abuse@example.org"), ["x@remote.example"]);
}

#[test]
fn a_role_address_that_leads_back_is_told_to_the_domain() {
    let directory = Set::default()
        .domain("a/1", "{domain: example.org, postmaster: list@example.org}")
        .alias("a/2", "list@example.org", &["abuse@example.org"])
        .compute();
    assert!(directory.domain_verdicts[&id("a/1")].resolved_refs.is_err());
    assert!(targets(&directory, "abuse@example.org").is_empty());
}

#[test]
fn tables_that_are_full_refuse_the_youngest_alone() {
    let domain = format!("{0}.{0}.{0}.example.org", "long-name".repeat(6));
    let mut set = Set::default().domain("mail/0", &format!("domain: {domain}"));
    for number in 10_000..80_000 {
        set = set
            .mailbox(&format!("mail/{number}"), &format!("somebody-with-a-long-name-too-{number}@{domain}"));
    }
    let directory = set.compute();
    let live = directory.mailboxes.len();
    assert!((50_000..70_000).contains(&live), "{live}");
    for number in 10_000..80_000 {
        let expected = (number >= 10_000 + live).then_some(Reason::CapacityExceeded);
        assert_eq!(reason(&directory.mailbox_verdicts, &format!("mail/{number}")), expected);
    }
    let fill = directory.fill.iter().find(|fill| fill.kind == "mailboxes").expect("told");
    assert!(
        fill.cell == "default" && fill.taken <= fill.room && fill.taken > fill.room / 100 * 99,
        "{fill:?}"
    );
    let tables = crate::postfix::tables::tables(
        &directory,
        "default",
        "mail.example.test",
        |_| true,
        &BTreeSet::new(),
        |_| true,
    );
    let packed =
        crate::postfix::shards::pack("default", tables, false, None).expect("what is accepted has room");
    assert_eq!(packed.shards.len(), crate::postfix::shards::SHARDS);
    assert!(directory.accepts(&Address::own(&format!("postmaster@{domain}")).expect("valid")));
}

/// There may be a hundred thousand.
#[test]
fn a_mailbox_is_small() {
    assert!(size_of::<Object<Address>>() <= 48);
}

/// Also with one that came later, without a look at all objects.
#[test]
fn the_mailboxes_of_a_domain_share_what_is_said_of_them() {
    let two = Set::default().domain("a/1", ORG).mailbox("a/2", "one@example.org");
    let two = two.mailbox("a/3", "two@example.org");
    let mut directory = two.compute();
    let three = two.mailbox("a/4", "three@example.org");
    let (config, records) = (config(), BTreeMap::new());
    let rules = Rules { config: &config, namespace: "mail", records: &records };
    directory.update(&three.0, &[(id("a/4"), None)].into(), rules).expect("it depends on nothing else");
    let first = &directory.mailbox_verdicts[&id("a/2")];
    assert!(directory.mailbox_verdicts.values().all(|verdict| Arc::ptr_eq(verdict, first)));
}
