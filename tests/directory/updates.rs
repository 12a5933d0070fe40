//! What is made of a few changes is what is made of everything anew.

use std::cell::Cell;
use std::collections::{BTreeMap, BTreeSet};

use vmail_operator::api::address::Address;
use vmail_operator::config::{Config, Quota};
use vmail_operator::directory::brake::{self, Asked};
use vmail_operator::directory::{Change, Directory, Keeping, Object, ObjectId, Objects, Rules, ServedDomain};
use vmail_operator::postfix::revision_files;
use vmail_operator::postfix::shards::{Packed, SHARDS, pack};
use vmail_operator::records::Record;
use vmail_operator::revision::DomainState;

use proptest::prelude::*;

use crate::sets::{HOST, config, sets};
use crate::trial::{cases, holds};

static RECORDS: BTreeMap<String, Record> = BTreeMap::new();

fn rules(config: &Config) -> Rules<'_> {
    Rules { config, namespace: "mail", records: &RECORDS }
}

/// One change of one Mailbox.
fn change(objects: &mut Objects, id: &ObjectId, object: Option<Object<Address>>) -> Option<Address> {
    let before = match object {
        Some(object) => objects.mailboxes.insert(id.clone(), object),
        None => objects.mailboxes.remove(id),
    };
    before.and_then(|before| before.spec.ok())
}

#[test]
fn a_few_changed_mailboxes_give_what_all_objects_give() {
    let mut limited = config().clone();
    let quota = |namespace: &str, mailboxes| Quota {
        namespaces: vec![namespace.to_owned()],
        domains: None,
        mailboxes: Some(mailboxes),
        alias_targets: None,
    };
    limited.tenancy.quotas = vec![quota("b", 2), quota("mail", 6)];
    let (quick, slow, unasked) = (Cell::new(0), Cell::new(0), Cell::new(0));
    let all = cases("VMAIL_CASES", 2000) / 4;
    holds(all, std::array::from_fn::<_, 2, _>(|_| sets()), |[mut objects, newcomers]| {
        let mut directory = Directory::compute(&objects, rules(&limited));
        let (mut changed, mut asked) = (BTreeMap::new(), Asked::default());
        // Half of them declare what is declared already.
        for (number, (id, object)) in newcomers.mailboxes.into_iter().enumerate() {
            let fresh = ["one.example", "two.example"].map(|domain| format!("fresh-{number}@{domain}"));
            let fresh = fresh.map(|address| Address::own(&address).expect("valid"));
            let first = Object { spec: Ok(fresh[0].clone()), ..object.clone() };
            let second = Object { spec: Ok(fresh[1].clone()), ..object.clone() };
            let steps = match number % 2 {
                0 => vec![Some(first), Some(second), None],
                _ => vec![Some(object), Some(first), None],
            };
            for (turn, step) in steps.into_iter().enumerate() {
                let declared = change(&mut objects, &id, step);
                if (number + turn) % 3 == 0 {
                    asked.addresses.extend(declared.clone());
                }
                changed.entry(id.clone()).or_insert(declared);
                // One alone, or several at once.
                if (number + turn) % 4 == 0 {
                    continue;
                }
                let (changed, asked) = (std::mem::take(&mut changed), std::mem::take(&mut asked));
                let expected = Directory::compute(&objects, rules(&limited));
                let before = directory.clone();
                let all_asked = brake::all_asked(&objects, &changed, &asked);
                let missing = brake::missing_addresses(&before, &expected, &objects, &asked);
                match directory.update(&objects, &changed, rules(&limited)) {
                    Some(told) => {
                        prop_assert_eq!(&directory, &expected);
                        let differs = Change::between(&before, &expected);
                        let as_told = |(address, served)| told.addresses.get(address) == Some(served);
                        prop_assert!(differs.addresses.iter().all(as_told));
                        prop_assert!(differs.mailboxes.is_subset(&told.mailboxes));
                        prop_assert!(differs.aliases.is_empty() && !differs.rest);
                        prop_assert!(missing.is_empty() || !all_asked, "the brake would hold {:?}", missing);
                        unasked.set(unasked.get() + u32::from(!missing.is_empty()));
                        quick.set(quick.get() + 1);
                    }
                    None => {
                        prop_assert_eq!(&directory, &before, "nothing was to be done");
                        directory = expected;
                        slow.set(slow.get() + 1);
                    }
                }
            }
        }
        Ok(())
    });
    let (quick, slow) = (quick.get(), slow.get());
    println!("{quick} changes without a look at all objects, {slow} with");
    assert!(quick > all && slow > all, "both were to be tried: {quick} {slow}");
    assert!(unasked.get() > all / 10, "the brake was to be tried: {}", unasked.get());
}

/// A domain with aliases so long that the tables stay in shards.
fn ballast(directory: &mut Directory) {
    let domain = format!("{}.example", ["b"; 60].concat());
    directory.domains.insert(domain.clone(), served(&domain));
    for list in 0..12 {
        let target = |number| own(&format!("{list}-{number}-{}@{domain}", ["t"; 50].concat()));
        directory.aliases.insert(own(&format!("list-{list}@{domain}")), (0..100).map(target).collect());
    }
}

fn own(text: &str) -> Address {
    Address::own(text).expect("valid")
}

fn served(domain: &str) -> ServedDomain {
    let spec = serde_yaml::from_str(&format!("domain: {domain}")).expect("valid");
    ServedDomain { state: DomainState::Serving, claim: None, namespace: "mail".to_owned(), spec }
}

/// Whatever differs between two directories: where the change says so, the shards of its addresses are all that differs.
#[test]
fn what_changed_is_in_the_shards_of_its_addresses() {
    let mut config = config().clone();
    let mut moon = config.cells["default"].clone();
    moon.hostname = "moon.example.test".to_owned();
    config.cells.insert("moon".to_owned(), moon);
    let (quick, slow) = (Cell::new(0), Cell::new(0));
    let all = cases("VMAIL_CASES", 2000) / 40;
    holds(all, std::array::from_fn::<_, 3, _>(|_| sets()), |[mut objects, other, mut earlier]| {
        for object in objects.domains.values_mut().chain(earlier.domains.values_mut()) {
            if let Ok(spec) = &mut object.spec
                && spec.domain == "two.example"
            {
                spec.cell = "moon".to_owned();
            }
        }
        // What drains has no MailDomain.
        let mut records = BTreeMap::new();
        for (id, object) in earlier.domains {
            if let Ok(spec) = object.spec {
                let record = Record::new(&spec.domain.clone(), id.namespace(), spec);
                records.insert(record.domain.clone(), record);
            }
        }
        let rules = Rules { config: &config, namespace: "mail", records: &records };
        let compute = |objects: &Objects| {
            let mut directory = Directory::compute(objects, rules);
            ballast(&mut directory);
            directory
        };
        let vanished = BTreeSet::new();
        let files = |directory: &Directory, wanted: &dyn Fn(&Address) -> bool| {
            revision_files(directory, "default", HOST, &config, |_| true, &vanished, wanted).expect("valid")
        };
        let pack = |directory: &Directory, before: Option<&Packed>| {
            pack("default", files(directory, &|_| true), true, before).expect("it fits")
        };
        let mut directory = compute(&objects);
        let mut packed = None;
        // One after the other, as they may be seen.
        let aliases = other.aliases.into_iter().map(|(id, alias)| (id, Some(alias), None));
        let mailboxes = other.mailboxes.into_iter().map(|(id, mailbox)| (id, None, Some(mailbox)));
        for (id, alias, mailbox) in aliases.chain(mailboxes) {
            alias.map(|alias| objects.aliases.insert(id.clone(), alias));
            mailbox.map(|mailbox| objects.mailboxes.insert(id, mailbox));
            let new = compute(&objects);
            let change = Change::between(&directory, &new);
            if change.rest {
                slow.set(slow.get() + 1);
                packed = None;
            } else {
                let packed = packed.get_or_insert_with(|| pack(&directory, None));
                let expected = pack(&new, Some(packed));
                let stale = packed.stale(change.addresses.keys()).expect("there are shards");
                let some = files(&new, &|address| stale.has(address));
                let repacked = packed.repack("default", some, &stale).expect("it fits");
                prop_assert!(repacked == Some(expected.clone()), "{:?}", change);
                quick.set(quick.get() + u32::from(expected != *packed));
                *packed = expected;
            }
            directory = new;
        }
        Ok(())
    });
    let (quick, slow) = (quick.get(), slow.get());
    println!("{quick} changes of a few shards, {slow} of more");
    assert!(quick > all / 4 && slow > all / 4, "both were to be tried: {quick} {slow}");
}

/// The shards of the changed addresses, made anew, are those that all tables give.
#[test]
fn stale_shards_made_anew_are_what_all_tables_give() {
    let mut directory = Directory::default();
    for domain in ["one.example", "two.example"] {
        directory.domains.insert(domain.to_owned(), served(domain));
        for number in 0..5000 {
            let id = ObjectId::new("mail", format!("o{number}.{domain}"));
            let address = own(&format!("u{number}@{domain}"));
            directory.keeping.insert(address.clone(), Keeping::default());
            directory.mailboxes.insert(address, id);
        }
    }
    directory.aliases.insert(Address::catch_all("two.example"), [own("u1@two.example")].into());
    let files = |directory: &Directory, vanished: &BTreeSet<Address>, wanted: &dyn Fn(&Address) -> bool| {
        revision_files(directory, "default", HOST, config(), |_| true, vanished, wanted).expect("valid")
    };
    let all = |directory: &Directory, vanished: &BTreeSet<Address>| {
        pack("default", files(directory, vanished, &|_| true), true, None).expect("it fits")
    };
    let before = all(&directory, &BTreeSet::new());
    let mut after = directory.clone();
    let gone = own("u7@one.example");
    let changed = [
        own("new@one.example"),
        own("new@two.example"),
        own("u9@two.example"),
        gone.clone(),
        own("a@one.example"),
    ];
    for address in &changed[..2] {
        after.mailboxes.insert(address.clone(), ObjectId::new("mail", "new"));
        after.keeping.insert(address.clone(), Keeping::default());
    }
    let other = vmail_operator::api::DeletionPolicy::Delete;
    after.keeping.insert(changed[2].clone(), Keeping { policy: other, ..Keeping::default() });
    after.mailboxes.remove(&gone);
    after.keeping.remove(&gone);
    after.aliases.insert(changed[4].clone(), [own("u1@one.example")].into());
    let vanished = BTreeSet::from([gone]);

    let stale = before.stale(&changed).expect("there are shards");
    let some = files(&after, &vanished, &|address| stale.has(address));
    let repacked = before.repack("default", some, &stale).expect("it fits").expect("it can be done");
    assert!(repacked == all(&after, &vanished));
    let same = repacked.shards.iter().filter(|(name, shard)| before.shards[*name] == **shard).count();
    assert!(same >= SHARDS - changed.len(), "{same} shards are the same");
}
