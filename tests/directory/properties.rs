//! The directory against the naive reference, and what a set of objects must never do.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use proptest::prelude::*;
use proptest::strategy::ValueTree;
use proptest::test_runner::TestRunner;
use vmail_operator::api::address::Address;
use vmail_operator::api::conditions::Reason;
use vmail_operator::directory::trace::Trace;
use vmail_operator::directory::{
    AliasSpec, Directory, Object, ObjectId, Objects, Refusal, Rules, Verdict, Verdicts,
};
use vmail_operator::records::Record;

use crate::reference::{End, Reference};
use crate::sets::{HOST, config, probes, sets};
use crate::tables::Tables;
use crate::trial::{cases, holds};

fn rules() -> Rules<'static> {
    static RECORDS: BTreeMap<String, Record> = BTreeMap::new();
    Rules { config: config(), namespace: "mail", records: &RECORDS }
}

fn directory(objects: &Objects) -> Directory {
    Directory::compute(objects, rules())
}

/// A property of any sets; `VMAIL_CASES` says how often it is tried.
fn over<const N: usize>(property: impl Fn([Objects; N]) -> Result<(), TestCaseError>) {
    let sets = std::array::from_fn::<_, N, _>(|_| sets());
    holds(cases("VMAIL_CASES", 2000), sets, property);
}

fn accepted(verdicts: &Verdicts) -> BTreeSet<ObjectId> {
    verdicts.iter().filter(|(_, verdict)| verdict.accepted.is_ok()).map(|(id, _)| id.clone()).collect()
}

/// Who is accepted, and where mail for any address ends.
#[test]
fn the_directory_agrees_with_the_naive_reference() {
    over(|[objects]| {
        let directory = directory(&objects);
        let reference = Reference::of(&objects);
        prop_assert_eq!(accepted(&directory.domain_verdicts), reference.domains());
        prop_assert_eq!(accepted(&directory.mailbox_verdicts), reference.mailboxes());
        prop_assert_eq!(accepted(&directory.alias_verdicts), reference.aliases());
        let tables = Tables::of(&directory);
        for address in probes() {
            let expected = reference.ends(&address.to_string());
            let accepts = reference.accepts(&address.to_string());
            prop_assert_eq!(directory.accepts(&address), accepts, "{}", address);
            if accepts {
                let ends = tables.ends(&address.to_string(), 0);
                prop_assert!(!ends.contains(&None), "mail for {} bounces: {:?}", address, ends);
                prop_assert_eq!(
                    ends.into_iter().flatten().collect::<BTreeSet<_>>(),
                    expected.clone(),
                    "{}",
                    address
                );
            }
            let trace = Trace::new(&address, &directory, &objects, rules());
            prop_assert_eq!(trace.accepted, accepts);
            prop_assert_eq!(trace.why.is_empty(), accepts, "{}", trace);
            let traced = trace.ends.iter().map(|end| match end.maildir {
                Some(_) => End::Maildir(end.address.clone()),
                None => End::Remote(end.address.clone()),
            });
            if accepts {
                prop_assert_eq!(traced.collect::<BTreeSet<_>>(), expected, "{}", trace);
            }
        }
        Ok(())
    });
}

/// Every object has a verdict, and the same set always gives the same bytes.
#[test]
fn every_object_has_a_verdict_and_every_set_its_bytes() {
    over(|[objects]| {
        let directory = directory(&objects);
        prop_assert!(objects.domains.keys().eq(directory.domain_verdicts.keys()));
        prop_assert!(objects.mailboxes.keys().eq(directory.mailbox_verdicts.keys()));
        prop_assert!(objects.aliases.keys().eq(directory.alias_verdicts.keys()));
        prop_assert_eq!(Tables::of(&directory), Tables::of(&self::directory(&objects)));
        prop_assert_eq!(&directory, &self::directory(&objects));
        Ok(())
    });
}

/// A refused object that came last harms only itself: without it, everything else is the same.
#[test]
fn a_refused_newcomer_harms_only_itself() {
    over(|[objects, newcomers]| {
        let before = directory(&objects);
        for (id, object) in newcomers.aliases {
            let mut with = objects.clone();
            let id = newcomer(id);
            with.aliases.insert(id.clone(), changed_last(object));
            same_but_for(&before, &directory(&with), |after| after.alias_verdicts.remove(&id))?;
        }
        for (id, object) in newcomers.mailboxes {
            let mut with = objects.clone();
            let id = newcomer(id);
            with.mailboxes.insert(id.clone(), changed_last(object));
            same_but_for(&before, &directory(&with), |after| after.mailbox_verdicts.remove(&id))?;
        }
        for (id, object) in newcomers.domains {
            let mut with = objects.clone();
            let id = newcomer(id);
            with.domains.insert(id.clone(), changed_last(object));
            same_but_for(&before, &directory(&with), |after| after.domain_verdicts.remove(&id))?;
        }
        Ok(())
    });
}

/// An alias that is edited into a loop takes nobody with it: who is accepted without it still is.
#[test]
fn a_bad_edit_harms_only_its_object() {
    over(|[objects, edits]| {
        for (id, edit) in edits.aliases {
            let (Some(before), Ok(edit)) = (objects.aliases.get(&id), edit.spec) else { continue };
            let Ok(spec) = &before.spec else { continue };
            let spec = Ok(AliasSpec { address: spec.address.clone(), targets: edit.targets });
            let created = before.created;
            let mut with = objects.clone();
            with.aliases
                .insert(id.clone(), Object { created, ..changed_last(Object { spec, ..before.clone() }) });
            let mut without = objects.clone();
            without.aliases.remove(&id);
            let after = directory(&with);
            let reason = |told: &Result<(), Refusal>| told.as_ref().err().map(|refusal| refusal.reason);
            if reason(&after.alias_verdicts[&id].accepted) == Some(Reason::AliasLoop) {
                for other in accepted(&directory(&without).alias_verdicts) {
                    // Its address stays its own.
                    let told = reason(&after.alias_verdicts[&other].accepted);
                    prop_assert!(
                        told.is_none_or(|reason| reason == Reason::AddressConflict),
                        "{}: {:?}",
                        other,
                        told
                    );
                }
            }
        }
        Ok(())
    });
}

const LATE: i64 = 1000;

fn newcomer(id: ObjectId) -> ObjectId {
    ObjectId::new(id.namespace(), format!("late-{}", id.name()))
}

fn changed_last<S>(object: Object<S>) -> Object<S> {
    Object { created: LATE, changed: LATE, ..object }
}

/// Where the object was refused: nothing besides its own verdict differs.
fn same_but_for(
    before: &Directory,
    after: &Directory,
    own: impl Fn(&mut Directory) -> Option<Arc<Verdict>>,
) -> Result<(), TestCaseError> {
    let mut rest = after.clone();
    if own(&mut rest).expect("a verdict").accepted.is_err() {
        // What it claims on disk is left alone all the same.
        rest.claims.clone_from(&before.claims);
        rest.ties.clone_from(&before.ties);
        prop_assert_eq!(before, &rest);
    }
    Ok(())
}

/// Addresses that nobody could have declared are refused as well.
#[test]
fn an_empty_set_serves_only_the_host() {
    let directory = directory(&Objects::default());
    for address in probes() {
        let host = address.domain() == HOST && ["postmaster", "abuse", "root"].contains(&address.local());
        assert_eq!(directory.accepts(&address), host, "{address}");
    }
    assert!(directory.accepts(&Address::own("postmaster@mail.example.test").expect("valid")));
}

/// The generated sets reach every verdict that they can; capacity and size have tests of their own.
#[test]
fn the_sets_are_adversarial_enough() {
    use Reason::*;
    let mut runner = TestRunner::deterministic();
    let mut seen: BTreeMap<Reason, usize> = BTreeMap::new();
    let (mut dead, mut catch_alls) = (0, 0);
    for _ in 0..1000 {
        let objects = sets().new_tree(&mut runner).expect("a set").current();
        let directory = directory(&objects);
        let verdicts = directory.domain_verdicts.values().chain(directory.mailbox_verdicts.values());
        for verdict in verdicts.chain(directory.alias_verdicts.values()) {
            for refusal in
                [&verdict.accepted, &verdict.resolved_refs].into_iter().filter_map(|said| said.as_ref().err())
            {
                *seen.entry(refusal.reason).or_default() += 1;
            }
        }
        dead += usize::from(!directory.dead.is_empty());
        catch_alls += usize::from(directory.aliases.keys().any(Address::is_catch_all));
    }
    for reason in [
        AddressConflict,
        AliasLoop,
        CellNotFound,
        DomainConflict,
        DomainNotFound,
        DomainNotPermitted,
        Invalid,
        NotAllowedByDomain,
        Pending,
        ReservedDomain,
        RestrictedAddress,
        ShadowsMailbox,
        TargetNotFound,
        WrongDomainClass,
    ] {
        assert!(seen.get(&reason).is_some_and(|count| *count > 20), "{reason:?} is rare: {seen:?}");
    }
    assert!(dead > 100 && catch_alls > 100, "{dead} {catch_alls}");
}
