//! The rules one by one, and what holds for any set of objects.

use std::collections::{BTreeMap, BTreeSet};

use jiff::Timestamp;
use proptest::prelude::*;

use super::*;
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
    ObjectId { namespace: namespace.to_owned(), name: name.to_owned() }
}

fn object<S>(id: &ObjectId, spec: S) -> Object<S> {
    let age: i64 = id.name.parse().expect("a number");
    let created = Timestamp::from_second(age).expect("valid");
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

    fn compute(&self) -> Directory {
        self.with_records(&BTreeMap::new())
    }

    fn with_records(&self, records: &BTreeMap<String, Record>) -> Directory {
        let config = config();
        Directory::compute(&self.0, Rules { config: &config, namespace: "mail", records })
    }
}

const ORG: &str = "domain: example.org";

fn reason(verdicts: &BTreeMap<ObjectId, Verdict>, name: &str) -> Option<Reason> {
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
    assert!(role(own(), "abuse@example.org").is_empty(), "nobody is behind it");
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
    let mut set = Set::default().domain("a/0", ORG);
    for number in 10_000..20_000 {
        set = set.mailbox(&format!("a/{number}"), &format!("somebody-with-a-long-name-{number}@example.org"));
    }
    let directory = set.compute();
    let live = directory.mailboxes.len();
    assert!((4_000..10_000).contains(&live), "{live}");
    for number in 10_000..20_000 {
        let expected = (number >= 10_000 + live).then_some(Reason::CapacityExceeded);
        assert_eq!(reason(&directory.mailbox_verdicts, &format!("a/{number}")), expected);
    }
    let tables = crate::postfix::tables::tables(
        &directory,
        "default",
        "mail.example.test",
        |_| true,
        &BTreeSet::new(),
    );
    let size: usize = tables.values().map(String::len).sum();
    assert!((400_000..1_000_000).contains(&size), "{size}");
    assert!(directory.accepts(&Address::own("postmaster@example.org").expect("valid")));
}

/// Where mail for an address ends, worked out naively: from the declared objects that were accepted, by
/// following every target.
fn naive_ends(set: &Objects, directory: &Directory, address: &Address, depth: usize) -> BTreeSet<String> {
    if depth > 40 {
        return BTreeSet::new();
    }
    let accepted = |verdicts: &BTreeMap<ObjectId, Verdict>, id: &ObjectId| verdicts[id].accepted.is_ok();
    let keys: Vec<Address> = address.lookup_order().collect();
    for key in &keys {
        let alias = set.aliases.iter().find(|(id, object)| {
            object.spec.as_ref().is_ok_and(|spec| spec.address == *key)
                && accepted(&directory.alias_verdicts, id)
        });
        if let Some((_, object)) = alias {
            let spec = object.spec.as_ref().expect("checked");
            let mailbox = set.mailboxes.iter().any(|(id, object)| {
                object.spec.as_ref() == Ok(key) && accepted(&directory.mailbox_verdicts, id)
            });
            return spec
                .targets
                .iter()
                .flat_map(|target| {
                    if target == key && mailbox {
                        BTreeSet::from([key.to_string()])
                    } else {
                        naive_ends(set, directory, target, depth + 1)
                    }
                })
                .collect();
        }
        if directory.aliases.contains_key(key) {
            return targets(directory, &key.to_string())
                .iter()
                .flat_map(|target| {
                    naive_ends(set, directory, &Address::target(target).expect("valid"), depth + 1)
                })
                .collect();
        }
    }
    for key in &keys {
        if set
            .mailboxes
            .iter()
            .any(|(id, object)| object.spec.as_ref() == Ok(key) && accepted(&directory.mailbox_verdicts, id))
        {
            return BTreeSet::from([key.to_string()]);
        }
    }
    let ours = directory.domains.contains_key(address.domain()) || address.domain() == "mail.example.test";
    if ours { BTreeSet::new() } else { BTreeSet::from([address.to_string()]) }
}

/// The same from the rendered aliases alone, as Postfix does it.
fn table_ends(directory: &Directory, address: &Address, depth: usize) -> BTreeSet<String> {
    assert!(depth < 1000, "{address} leads in a circle");
    let keys: Vec<Address> = address.lookup_order().collect();
    for key in &keys {
        if let Some(targets) = directory.aliases.get(key) {
            return targets
                .iter()
                .flat_map(|target| {
                    if target == key {
                        BTreeSet::from([key.to_string()])
                    } else {
                        table_ends(directory, target, depth + 1)
                    }
                })
                .collect();
        }
    }
    for key in &keys {
        if directory.mailboxes.contains_key(key) {
            return BTreeSet::from([key.to_string()]);
        }
    }
    BTreeSet::from([address.to_string()])
}

fn sets() -> impl Strategy<Value = Objects> {
    let namespace = prop::sample::select(vec!["a", "b", "mail"]);
    let domain =
        prop::sample::select(vec!["one.example", "two.example", "other.example", "mail.example.test"]);
    let local = prop::sample::select(vec!["u", "v", "w", "postmaster", "abuse"]);
    let target_local = prop::sample::select(vec!["u", "v", "w", "postmaster", "abuse", "u+t", "W"]);
    let target_domain =
        prop::sample::select(vec!["one.example", "two.example", "remote.example", "mail.example.test"]);
    let allowed = prop::sample::select(vec!["{}", "{from: All}", "{from: Names, names: [b]}"]);
    let postmaster =
        prop::sample::select(vec!["", ", postmaster: u@one.example", ", postmaster: abuse@two.example"]);
    let target = (target_local, target_domain).prop_map(|(local, domain)| format!("{local}@{domain}"));
    let domains = prop::collection::vec((namespace.clone(), domain.clone(), allowed, postmaster), 0..5);
    let mailboxes = prop::collection::vec((namespace.clone(), local.clone(), domain.clone()), 0..8);
    let aliases =
        prop::collection::vec((namespace, local, domain, prop::collection::vec(target, 1..4)), 0..8);
    (domains, mailboxes, aliases).prop_map(|(domains, mailboxes, aliases)| {
        let mut set = Set::default();
        let mut age = 0;
        let mut name = |namespace: &str| {
            age += 1;
            format!("{namespace}/{}", age * 7 % 31)
        };
        for (namespace, domain, allowed, postmaster) in domains {
            set = set.domain(
                &name(namespace),
                &format!("{{domain: {domain}, allowedNamespaces: {allowed}{postmaster}}}"),
            );
        }
        for (namespace, local, domain) in mailboxes {
            set = set.mailbox(&name(namespace), &format!("{local}@{domain}"));
        }
        for (namespace, local, domain, targets) in aliases {
            let targets: Vec<&str> = targets.iter().map(String::as_str).collect();
            set = set.alias(&name(namespace), &format!("{local}@{domain}"), &targets);
        }
        set.0
    })
}

fn probes() -> Vec<Address> {
    let mut all = Vec::new();
    for domain in ["one.example", "two.example", "other.example", "mail.example.test"] {
        for local in ["u", "v", "w", "u+tag", "postmaster", "abuse", "root", "nobody"] {
            all.push(Address::target(&format!("{local}@{domain}")).expect("valid"));
        }
    }
    all
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2000))]

    /// The tables say what a naive walk over the accepted objects says, and never lead to nobody.
    #[test]
    fn tables_agree_with_the_naive_walk(objects in sets()) {
        let directory = Set(objects.clone()).compute();
        for address in probes() {
            let naive = naive_ends(&objects, &directory, &address, 0);
            if directory.accepts(&address) {
                let ends = table_ends(&directory, &address, 0);
                prop_assert!(!ends.is_empty());
                prop_assert_eq!(&ends, &naive, "{}", address);
                for end in ends {
                    let end = Address::target(&end).expect("valid");
                    let ours = directory.domains.contains_key(end.domain()) || end.domain() == "mail.example.test";
                    prop_assert!(!ours || end.lookup_order().any(|key| directory.mailboxes.contains_key(&key)), "{} bounces", end);
                }
            } else if directory.domains.contains_key(address.domain()) {
                prop_assert!(naive.is_empty(), "{} would reach {:?}", address, naive);
            }
        }
    }

    /// A younger object of another namespace that is refused changes nobody's mail.
    #[test]
    fn a_refused_object_harms_only_itself(objects in sets(), local in "[uvw]", target in "[uvw]") {
        let before = Set(objects.clone()).compute();
        let address = format!("{local}@one.example");
        let with = Set(objects).alias("z/99", &address, &[&format!("{target}@two.example")]);
        let after = with.compute();
        if after.alias_verdicts[&id("z/99")].accepted.is_err() {
            prop_assert_eq!(before.aliases, after.aliases);
            prop_assert_eq!(before.mailboxes, after.mailboxes);
            prop_assert_eq!(before.domains, after.domains);
        }
    }

    /// What is accepted is in a served domain and has one owner, and every object has a verdict.
    #[test]
    fn every_object_has_a_verdict(objects in sets()) {
        let directory = Set(objects.clone()).compute();
        prop_assert!(objects.domains.keys().eq(directory.domain_verdicts.keys()));
        prop_assert!(objects.mailboxes.keys().eq(directory.mailbox_verdicts.keys()));
        prop_assert!(objects.aliases.keys().eq(directory.alias_verdicts.keys()));
        for address in directory.mailboxes.keys() {
            prop_assert!(directory.domains.contains_key(address.domain()));
        }
    }
}
