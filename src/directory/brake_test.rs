use jiff::Timestamp;
use proptest::prelude::*;

use super::*;
use crate::config::Config;
use crate::directory::{AliasSpec, Object, ObjectId};
use crate::records::Record;

const DOMAINS: [&str; 3] = ["a.example", "b.example", "c.example"];

fn config() -> Config {
    Config::parse(
        "
name: vmail
postmaster: hostmaster@elsewhere.example
cells: {default: {hostname: mail.example.test, pod: vmail-postfix-default-0}}
tenancy: {rules: [{namespaces: ['*'], domains: ['*']}]}
dns: {powerdns: {url: 'http://pdns:8081', apiKeyFile: /etc/pdns/api-key}}
",
    )
    .expect("valid")
}

fn id(namespace: &str, name: &str) -> ObjectId {
    ObjectId::new(namespace, name)
}

fn object<S>(spec: S) -> Object<S> {
    Object { created: 0, changed: 0, deleting: false, spec: Ok(spec) }
}

fn address(number: usize) -> Address {
    Address::own(&format!("u{}@{}", number / DOMAINS.len(), DOMAINS[number % DOMAINS.len()])).expect("valid")
}

/// Three domains, one of which catches all, and their records.
fn domains() -> (Objects, BTreeMap<String, Record>) {
    let mut objects = Objects::default();
    let mut records = BTreeMap::new();
    for domain in DOMAINS {
        let catch_all = if domain == "a.example" { "u0@a.example" } else { "null" };
        let spec = format!("{{domain: {domain}, catchAll: {catch_all}, allowedNamespaces: {{from: All}}}}");
        let spec: crate::api::MailDomainSpec = serde_yaml::from_str(&spec).expect("a spec");
        records.insert(domain.to_owned(), Record::new(domain, "mail", spec.clone()));
        objects.domains.insert(id("mail", domain), object(spec));
    }
    (objects, records)
}

fn compute(objects: &Objects, records: &BTreeMap<String, Record>) -> Directory {
    Directory::compute(objects, Rules { config: &config(), namespace: "mail", records })
}

fn found(objects: &Objects, records: &BTreeMap<String, Record>, asked: &Asked) -> Found {
    super::domains(objects, Rules { config: &config(), namespace: "mail", records }, asked)
}

#[test]
fn a_share_and_a_minimum() {
    let config = BrakeConfig::default();
    assert!(brakes(10, 49, &config) && !brakes(10, 50, &config), "20 % go, more do not");
    assert!(!brakes(9, 9, &config) && brakes(10, 10, &config));
    assert!(!brakes(0, 0, &BrakeConfig { share: 0, minimum: 0 }));
    assert!(brakes(1, 1000, &BrakeConfig { share: 0, minimum: 1 }));
    assert!(!brakes(1000, 1000, &BrakeConfig { share: 100, minimum: 1 }));
}

#[test]
fn a_domain_is_missing_unless_somebody_asked_for_it() {
    let (mut objects, mut records) = domains();
    let asked = Asked::default();
    assert!(found(&objects, &records, &asked).missing.is_empty());
    objects.domains.clear();
    assert_eq!(found(&objects, &records, &asked).missing.len(), 3);
    let asked = Asked { domains: ["a.example".to_owned()].into(), ..Asked::default() };
    if let Some(record) = records.get_mut("b.example") {
        record.withdraw = true;
    }
    assert_eq!(found(&objects, &records, &asked).missing, ["c.example".to_owned()].into());
    if let Some(record) = records.get_mut("c.example") {
        record.phase = Phase::Withdrawing { since: Timestamp::UNIX_EPOCH };
    }
    assert!(found(&objects, &records, &asked).missing.is_empty(), "it is on its way out already");
}

/// What the brake holds is served as if its MailDomain were there.
#[test]
fn a_held_domain_is_in_the_tables_as_before() {
    let (mut objects, mut records) = domains();
    objects.mailboxes.insert(id("mail", "u"), object(address(0)));
    let before = compute(&objects, &records);
    objects.domains.clear();
    records.values_mut().for_each(|record| record.held = true);
    let held = compute(&objects, &records);
    assert_eq!((&held.mailboxes, &held.aliases), (&before.mailboxes, &before.aliases));
    for (domain, served) in &held.domains {
        let now = &before.domains[domain];
        assert_eq!((served.state, &served.spec), (now.state, &now.spec));
    }
}

#[test]
fn what_users_declare_is_not_missing() {
    let (mut objects, records) = domains();
    let (alias, target) = (address(3), address(6));
    let spec = AliasSpec { address: alias.clone(), targets: [target.clone()].into() };
    objects.aliases.insert(id("mail", "a"), object(spec));
    objects.mailboxes.insert(id("mail", "m"), object(target.clone()));
    let before = compute(&objects, &records);
    let missing = |objects: &Objects, asked: &Asked| {
        missing_addresses(&before, &compute(objects, &records), objects, asked)
    };
    let nobody = Asked::default();

    // The mailbox is deleted: its alias leads nowhere.
    let mut deleted = objects.clone();
    deleted.mailboxes.clear();
    let asked = Asked { addresses: [target.clone()].into(), ..Asked::default() };
    assert!(missing(&deleted, &asked).is_empty());
    assert_eq!(missing(&deleted, &nobody), [target.clone()].into());

    // A Mailbox of the same namespace takes the place of an alias.
    let mut replaced = objects.clone();
    replaced.mailboxes.insert(id("mail", "n"), object(alias.clone()));
    assert!(missing(&replaced, &nobody).is_empty());

    // A MailDomain lists a role address no more, and lets another namespace join no more.
    let mut edited = objects.clone();
    edited.mailboxes.insert(id("other", "o"), object(address(9)));
    let joined = compute(&edited, &records);
    let spec = "{domain: a.example, roleAddresses: [postmaster, root]}";
    let spec: crate::api::MailDomainSpec = serde_yaml::from_str(spec).expect("a spec");
    edited.domains.insert(id("mail", "a.example"), object(spec));
    let abuse = BTreeSet::from([Address::role("abuse", "a.example").expect("valid")]);
    assert_eq!(found(&edited, &records, &nobody).dropped, abuse);
    let after = compute(&edited, &records);
    assert!(joined.mailboxes.contains_key(&address(9)) && !after.mailboxes.contains_key(&address(9)));
    assert_eq!(missing_addresses(&joined, &after, &edited, &nobody), abuse);

    // Somebody else gets what was lost.
    let mut lost = objects.clone();
    lost.mailboxes.clear();
    lost.mailboxes.insert(id("other", "m"), object(target.clone()));
    assert_eq!(missing(&lost, &nobody), [target.clone()].into());
    let mut after = compute(&lost, &records);
    keep(&mut after, &before, &[target.clone()].into(), &lost);
    assert_eq!(after.mailboxes[&target], id("mail", "m"));
    assert_eq!(after.aliases, before.aliases);
}

#[test]
fn an_alias_gets_no_target_back_that_its_owner_took_out() {
    let (mut objects, records) = domains();
    let (alias, one, two) = (address(3), address(6), address(9));
    let spec = |targets: &[&Address]| AliasSpec {
        address: alias.clone(),
        targets: targets.iter().map(|target| (*target).clone()).collect(),
    };
    objects.aliases.insert(id("mail", "a"), object(spec(&[&one, &two])));
    objects.mailboxes.insert(id("mail", "one"), object(one.clone()));
    objects.mailboxes.insert(id("mail", "two"), object(two.clone()));
    let before = compute(&objects, &records);
    objects.mailboxes.remove(&id("mail", "two"));
    let kept = |objects: &Objects| {
        let mut after = compute(objects, &records);
        keep(&mut after, &before, &[two.clone()].into(), objects);
        after.aliases[&alias].clone()
    };
    assert_eq!(kept(&objects), [one.clone(), two.clone()].into());
    objects.aliases.insert(id("mail", "a"), object(spec(&[&one])));
    assert_eq!(kept(&objects), [one].into());
}

#[test]
fn what_a_catch_all_took_is_not_refused_for_a_loop_that_is_gone() {
    let (mut objects, records) = domains();
    // u4@b and u5@a lead to each other; the second is refused, and a.example catches its mail.
    let (one, two, looping) = (address(13), address(14), address(15));
    let mut alias = |name: &str, from: &Address, to: &Address| {
        let spec = AliasSpec { address: from.clone(), targets: [to.clone()].into() };
        objects.aliases.insert(id("mail", name), object(spec));
    };
    alias("a1", &one, &looping);
    alias("a2", &two, &looping);
    alias("a3", &looping, &one);
    objects.mailboxes.insert(id("mail", "m"), object(address(0)));
    let before = compute(&objects, &records);
    assert!(before.aliases.contains_key(&two) && !before.aliases.contains_key(&looping));

    objects.aliases.remove(&id("mail", "a1"));
    let mut after = compute(&objects, &records);
    assert!(after.dead.contains(&looping) && after.dead.contains(&two));
    keep(&mut after, &before, &[one].into(), &objects);
    assert_eq!(after.aliases, before.aliases);
    assert!(after.dead.is_empty(), "{:?}", after.dead);
}

proptest! {
    /// Whatever is lost: if all that is missing is kept, everybody is served as before; and what others add comes in.
    #[test]
    fn what_is_kept_is_served_as_before(
        mailboxes in proptest::collection::btree_map(0..12_usize, any::<bool>(), 0..12),
        aliases in proptest::collection::btree_map(
            12..24_usize, (proptest::collection::btree_set(0..26_usize, 1..4), any::<bool>()), 0..8),
        added in proptest::collection::btree_set(30..40_usize, 0..4),
    ) {
        let (mut objects, records) = domains();
        for number in mailboxes.keys() {
            objects.mailboxes.insert(id("mail", &format!("m{number:02}")), object(address(*number)));
        }
        for (number, (targets, _)) in &aliases {
            let spec = AliasSpec {
                address: address(*number),
                targets: targets.iter().map(|target| address(*target)).collect(),
            };
            objects.aliases.insert(id("mail", &format!("a{number:02}")), object(spec));
        }
        let before = compute(&objects, &records);
        for (number, _) in mailboxes.iter().filter(|(_, lost)| **lost) {
            objects.mailboxes.remove(&id("mail", &format!("m{number:02}")));
        }
        for (number, _) in aliases.iter().filter(|(_, (_, lost))| *lost) {
            objects.aliases.remove(&id("mail", &format!("a{number:02}")));
        }
        for number in &added {
            objects.mailboxes.insert(id("mail", &format!("m{number:02}")), object(address(*number)));
        }
        let mut after = compute(&objects, &records);
        let missing = missing_addresses(&before, &after, &objects, &Asked::default());
        keep(&mut after, &before, &missing, &objects);
        for number in &added {
            prop_assert!(after.mailboxes.remove(&address(*number)).is_some(), "an addition waits");
        }
        prop_assert_eq!(&after.mailboxes, &before.mailboxes);
        prop_assert!(after.aliases.keys().all(|address| !after.dead.contains(address)));
        // The younger alias of a loop is refused: what somebody declared, also when the older one was refused until now, for
        // another loop that is gone.
        let loops = |directory: &Directory, id: &ObjectId| {
            let accepted = directory.alias_verdicts.get(id).map(|verdict| &verdict.accepted);
            accepted.and_then(|accepted| accepted.as_ref().err()).map(|refusal| refusal.reason)
                == Some(Reason::AliasLoop)
        };
        prop_assume!(objects.aliases.keys().all(|id| !loops(&after, id) || loops(&before, id)));
        for (address, targets) in &before.aliases {
            prop_assert!(after.aliases.get(address).is_some_and(|now| now.is_superset(targets)), "{address}");
        }
        // Mail for an alias that led nowhere, and is lost, is a catch-all's. One that closed a loop counts when the loop is
        // gone.
        if before.dead.is_empty() && before.alias_verdicts.values().all(|verdict| verdict.accepted.is_ok()) {
            prop_assert_eq!(&after.aliases, &before.aliases);
        }
    }
}
