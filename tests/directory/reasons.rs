//! The reasons of verdicts are those that the reference lists (`docs/api.md`).

use std::collections::{BTreeMap, BTreeSet};

use proptest::strategy::{Strategy as _, ValueTree as _};
use proptest::test_runner::TestRunner;
use vmail_operator::api::conditions::{ACCEPTED, RESOLVED_REFS, Reason};
use vmail_operator::api::reasons::possible;
use vmail_operator::directory::{Directory, Refusal, Rules, Verdicts};

use crate::sets::{config, sets};

/// Condition and reason of what verdicts refuse.
fn refused(verdicts: &Verdicts) -> impl Iterator<Item = (&'static str, Reason)> {
    let said = |condition, result: &Result<(), Refusal>| Some((condition, result.as_ref().err()?.reason));
    verdicts
        .values()
        .flat_map(move |verdict| {
            [said(ACCEPTED, &verdict.accepted), said(RESOLVED_REFS, &verdict.resolved_refs)]
        })
        .flatten()
}

#[test]
fn no_verdict_has_a_reason_that_the_reference_does_not_list() {
    let rules = Rules { config: config(), namespace: "mail", records: &BTreeMap::new() };
    let mut runner = TestRunner::deterministic();
    let sets = sets();
    let mut seen = BTreeSet::new();
    for _ in 0..3000 {
        let objects = sets.new_tree(&mut runner).expect("a set").current();
        let directory = Directory::compute(&objects, rules);
        for (kind, verdicts) in [
            ("MailDomain", &directory.domain_verdicts),
            ("Mailbox", &directory.mailbox_verdicts),
            ("MailAlias", &directory.alias_verdicts),
        ] {
            for (condition, reason) in refused(verdicts) {
                let listed =
                    possible(kind).iter().any(|(name, _, all)| *name == condition && all.contains(&reason));
                assert!(listed, "{condition} of a {kind} is false with {reason:?}");
                seen.insert((kind, condition, reason));
            }
        }
    }
    assert!(seen.len() > 20, "few reasons were seen: {seen:?}");
}
