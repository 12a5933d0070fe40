//! The truth table, row by row, and what must hold of any row.

use proptest::prelude::*;

use super::*;
use crate::dns::record::Mx;

const CLAIM: Claim<'_> = Claim { owner_id: "us", instance: "1", previously_published: false, adopt: false };
const REMEMBERED: Claim<'_> = Claim { previously_published: true, ..CLAIM };

fn set(ttl: u32, host: &str) -> MxSet {
    MxSet { ttl, records: [Mx::new(10, host)].into() }
}

fn wanted() -> Wanted {
    Wanted { mx: set(3600, "mail.us.test"), lag: 30 }
}

fn owner(owner_id: &str, instance: &str) -> OwnerState {
    OwnerState::Known(Owner {
        owner_id: owner_id.into(),
        instance: instance.into(),
        ttl: 3600,
        lag: 30,
        at: 0,
    })
}

fn found(mx: FoundMx, owner: OwnerState) -> Found {
    Found { mx, owner, cname: None, wildcard: None }
}

fn equal() -> FoundMx {
    FoundMx::Set(wanted().mx)
}

fn different() -> [FoundMx; 4] {
    [
        FoundMx::Set(set(3600, "mail.them.test")),
        FoundMx::Set(set(60, "mail.us.test")),
        FoundMx::Set(MxSet {
            ttl: 3600,
            records: [Mx::new(10, "mail.us.test"), Mx::new(20, "mail.them.test")].into(),
        }),
        FoundMx::Unreadable { text: "\"10 mail.us.test. (disabled)\"".into(), ttl: 3600 },
    ]
}

fn publishes(claim: &Claim<'_>, found: &Found) -> Plan {
    plan(claim, Some(&wanted()), found)
}

#[test]
fn what_is_not_ours_is_adopted_once() {
    const ADOPT: Claim<'_> = Claim { adopt: true, ..CLAIM };
    let again = Claim { previously_published: true, ..ADOPT };
    for mx in different() {
        for owner in [OwnerState::None, owner("them", "9"), OwnerState::Foreign("keep off".into())] {
            let found = found(mx.clone(), owner);
            assert!(matches!(publishes(&CLAIM, &found), Plan::Conflict(_)), "{found:?}");
            assert_eq!(publishes(&ADOPT, &found), Plan::Write, "{found:?}");
            let taken_back = found.owner == OwnerState::None;
            assert_eq!(publishes(&again, &found) == Plan::Write, taken_back, "{found:?}");
        }
    }
    let shadowed = Found { wildcard: Some("*.us.test".into()), ..found(FoundMx::None, OwnerState::None) };
    assert_eq!(publishes(&ADOPT, &shadowed), Plan::Write);
    let cname = Found { cname: Some("elsewhere.test".into()), ..found(FoundMx::None, OwnerState::None) };
    assert!(matches!(publishes(&ADOPT, &cname), Plan::Conflict(_)), "no MX can stand beside it");
}

#[test]
fn ours_is_kept_as_wanted() {
    assert_eq!(publishes(&CLAIM, &found(equal(), owner("us", "1"))), Plan::Nothing);
    assert_eq!(publishes(&CLAIM, &found(FoundMx::None, owner("us", "1"))), Plan::Write);
    for mx in different() {
        assert_eq!(publishes(&CLAIM, &found(mx.clone(), owner("us", "1"))), Plan::Write, "{mx:?}");
    }
}

#[test]
fn times_that_would_shorten_a_drain_are_written_anew() {
    for (ttl, lag, expected) in
        [(3599, 30, Plan::Write), (3600, 29, Plan::Write), (86_400, 60, Plan::Nothing)]
    {
        let owner = Owner { owner_id: "us".into(), instance: "1".into(), ttl, lag, at: 0 };
        assert_eq!(publishes(&CLAIM, &found(equal(), OwnerState::Known(owner))), expected, "{ttl} {lag}");
    }
}

#[test]
fn nobody_holds_it() {
    assert_eq!(publishes(&CLAIM, &found(FoundMx::None, OwnerState::None)), Plan::Write);
    assert_eq!(publishes(&CLAIM, &found(equal(), OwnerState::None)), Plan::Write);
    for mx in different() {
        assert_eq!(
            publishes(&REMEMBERED, &found(mx.clone(), OwnerState::None)),
            Plan::Conflict(mx.describe()),
        );
    }
}

#[test]
fn another_instance_is_followed_once_and_obeyed_after() {
    for mx in different().into_iter().chain([FoundMx::None, equal()]) {
        let found = found(mx, owner("us", "2"));
        assert_eq!(publishes(&CLAIM, &found), Plan::Write);
        assert!(
            matches!(publishes(&REMEMBERED, &found), Plan::TakenOver(text) if text.contains("instance \"2\""))
        );
    }
}

#[test]
fn others_are_left_alone_and_quoted() {
    for state in [owner("them", "1"), OwnerState::Foreign("\"hello\"".into())] {
        for mx in different().into_iter().chain([FoundMx::None, equal()]) {
            let quoted = mx.describe();
            let plan = publishes(&CLAIM, &found(mx, state.clone()));
            assert!(matches!(&plan, Plan::Conflict(text) if text.starts_with(&quoted)), "{plan:?}");
        }
    }
}

#[test]
fn a_wildcard_is_not_hidden_but_a_lost_record_is_restored() {
    let shadowed = |owner| Found { wildcard: Some("*.test".into()), ..found(FoundMx::None, owner) };
    assert_eq!(publishes(&CLAIM, &shadowed(OwnerState::None)), Plan::Shadowed("*.test".into()));
    assert_eq!(publishes(&CLAIM, &shadowed(owner("us", "1"))), Plan::Write);
}

#[test]
fn no_mx_beside_a_cname() {
    for state in [OwnerState::None, owner("us", "1"), owner("them", "1")] {
        let found = Found { cname: Some("web.test.".into()), ..found(FoundMx::None, state) };
        assert!(matches!(publishes(&CLAIM, &found), Plan::Conflict(text) if text.contains("web.test.")));
    }
}

#[test]
fn only_ours_is_withdrawn() {
    for mx in different().into_iter().chain([equal()]) {
        assert_eq!(plan(&CLAIM, None, &found(mx.clone(), owner("us", "1"))), Plan::Delete);
        for state in [OwnerState::None, owner("us", "2"), owner("them", "1"), OwnerState::Foreign("x".into())]
        {
            let plan = plan(&REMEMBERED, None, &found(mx.clone(), state));
            assert!(matches!(&plan, Plan::NotOurs(text) if text.starts_with(&mx.describe())), "{plan:?}");
        }
    }
}

#[test]
fn a_left_over_ownership_record_goes_only_if_ours() {
    assert_eq!(plan(&CLAIM, None, &found(FoundMx::None, owner("us", "1"))), Plan::Delete);
    for state in [OwnerState::None, owner("us", "2"), owner("them", "1"), OwnerState::Foreign("x".into())] {
        assert_eq!(plan(&CLAIM, None, &found(FoundMx::None, state)), Plan::Nothing);
    }
}

fn any_set() -> impl Strategy<Value = MxSet> {
    let mx = (0..3_u16, prop::sample::select(vec!["mail.us.test", "mail.them.test"]));
    (prop::sample::select(vec![60, 3600]), prop::collection::btree_set(mx, 1..4)).prop_map(|(ttl, set)| {
        MxSet { ttl, records: set.into_iter().map(|(preference, host)| Mx::new(preference, host)).collect() }
    })
}

fn any_mx() -> impl Strategy<Value = FoundMx> {
    prop_oneof![
        Just(FoundMx::None),
        any_set().prop_map(FoundMx::Set),
        ("[a-z]{1,5}", any::<u32>()).prop_map(|(text, ttl)| FoundMx::Unreadable { text, ttl }),
    ]
}

fn any_owner() -> impl Strategy<Value = OwnerState> {
    let known = ("us|them", "1|2", prop::sample::select(vec![60, 3600]), 0..2_u32, any::<u64>()).prop_map(
        |(owner_id, instance, ttl, lag, at)| OwnerState::Known(Owner { owner_id, instance, ttl, lag, at }),
    );
    prop_oneof![Just(OwnerState::None), known, "[a-z]{1,5}".prop_map(OwnerState::Foreign)]
}

prop_compose! {
    fn any_found()(
        mx in any_mx(), owner in any_owner(), cname in prop::option::of("[a-z]{1,5}"),
        wildcard in prop::option::of("[a-z]{1,5}"),
    ) -> Found {
        Found { mx, owner, cname, wildcard }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(4096))]

    #[test]
    fn nothing_foreign_is_ever_written_over_or_deleted(
        found in any_found(), mx in any_set(), lag in 0..2_u32, previously_published: bool,
    ) {
        let claim = Claim { previously_published, ..CLAIM };
        let id_is_ours = matches!(&found.owner, OwnerState::Known(owner) if owner.owner_id == "us");
        let ours = matches!(&found.owner, OwnerState::Known(owner) if owner.owner_id == "us" && owner.instance == "1");
        let free = found.owner == OwnerState::None && (found.mx == FoundMx::None || found.mx == FoundMx::Set(mx.clone()));

        match plan(&claim, Some(&Wanted { mx, lag }), &found) {
            Plan::Write => prop_assert!((id_is_ours || free) && found.cname.is_none()),
            Plan::Delete | Plan::NotOurs(_) => prop_assert!(false, "publishing never deletes"),
            _ => {}
        }
        match plan(&claim, None, &found) {
            Plan::Delete => prop_assert!(ours),
            Plan::NotOurs(_) => prop_assert!(!ours && found.mx != FoundMx::None),
            Plan::Nothing => prop_assert!(!ours && found.mx == FoundMx::None),
            other => prop_assert!(false, "{other:?} is no way to withdraw"),
        }
    }

    #[test]
    fn what_was_written_is_left_in_peace_and_can_be_withdrawn(
        found in any_found(), mx in any_set(), lag in 0..2_u32, previously_published: bool,
    ) {
        let claim = Claim { previously_published, ..CLAIM };
        let wanted = Wanted { mx, lag };
        if plan(&claim, Some(&wanted), &found) == Plan::Write {
            let owner = Owner {
                owner_id: "us".into(), instance: "1".into(),
                ttl: wanted.mx.ttl.max(found.mx.ttl()), lag, at: 0,
            };
            let after = Found {
                mx: FoundMx::Set(wanted.mx.clone()), owner: OwnerState::Known(owner),
                cname: None, wildcard: None,
            };
            prop_assert_eq!(plan(&REMEMBERED, Some(&wanted), &after), Plan::Nothing);
            prop_assert_eq!(plan(&claim, None, &after), Plan::Delete);
        }
    }
}
