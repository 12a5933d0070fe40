use super::*;

const LIMITS: Limits =
    Limits { drain_margin: Duration::from_secs(60), queue_deadline: Duration::from_secs(1000) };

fn at(second: i64) -> Timestamp {
    Timestamp::from_second(second).expect("valid")
}

fn spec() -> MailDomainSpec {
    serde_yaml::from_str("domain: example.org").expect("valid")
}

fn published() -> Record {
    let record = Record::new("example.org", "mail", spec());
    record.confirmed(&wanted(&spec(), "mail.example.org"), "example.org", 30, "uid-1")
}

/// Steps until nothing changes.
fn settle(record: &Record, facts: &Facts<'_>, now: Timestamp) -> Option<Record> {
    let mut record = record.clone();
    for _ in 0..10 {
        let next = step(&record, facts, LIMITS, now)?;
        if next == record {
            return Some(record);
        }
        record = next;
    }
    panic!("no end: {record:?}");
}

#[test]
fn a_record_survives_its_yaml() {
    for phase in [
        Phase::Serving,
        Phase::Withdrawing { since: at(0) },
        Phase::Draining { until: at(5) },
        Phase::Leaving,
        Phase::Withdrawn { check: at(7) },
    ] {
        let record = Record { phase, ..published() };
        let text = serde_yaml::to_string(&record).expect("writes");
        assert_eq!(serde_yaml::from_str::<Record>(&text).expect("reads"), record, "{text}");
    }
}

#[test]
fn the_way_out_is_walked_in_order() {
    let gone = Facts::default();
    let record = settle(&published(), &gone, at(0)).expect("stays");
    assert_eq!(record.phase, Phase::Withdrawing { since: at(0) });
    assert!(record.in_tables());

    let absent = Facts { absent: Some(Absent::default()), ..gone.clone() };
    let record = settle(&record, &absent, at(100)).expect("stays");
    assert_eq!(record.phase, Phase::Draining { until: at(100 + 3600 + 30 + 60) });
    assert!(record.in_tables());

    let queued = Facts { queued: Some(1), ..gone.clone() };
    for facts in [&gone, &queued] {
        assert_eq!(
            settle(&record, facts, at(4000)).expect("stays").phase,
            record.phase,
            "mail is queued, or that is not known"
        );
    }
    let empty = Facts { queued: Some(0), ..gone.clone() };
    assert_eq!(
        settle(&record, &empty, at(3789)).expect("stays").phase,
        record.phase,
        "resolvers hold the MX"
    );
    assert_eq!(settle(&record, &empty, at(3790)).expect("stays").phase, record.phase, "DNS was not asked");
    let empty = Facts { absent: Some(Absent::default()), ..empty };
    assert_eq!(settle(&record, &empty, at(3789)).expect("stays").phase, record.phase);
    let record = settle(&record, &empty, at(3790)).expect("stays");
    assert_eq!(record.phase, Phase::Leaving);
    assert!(!record.in_tables());

    let left = Facts { left_tables: true, ..gone.clone() };
    let record = settle(&record, &left, at(3800)).expect("stays");
    assert_eq!(record.phase, Phase::Withdrawn { check: at(3860) });
    assert_eq!(
        settle(&record, &Facts { absent: Some(Absent::default()), ..gone.clone() }, at(3859)),
        Some(record.clone())
    );
    assert_eq!(settle(&record, &gone, at(9999)), Some(record.clone()), "DNS was not asked");
    assert_eq!(settle(&record, &Facts { absent: Some(Absent::default()), ..gone }, at(3860)), None);
}

#[test]
fn a_domain_that_is_taken_out_of_service_stays_out_while_it_is_declared() {
    let phase = Phase::Withdrawn { check: at(7) };
    let record = Record { phase, published: None, withdraw: true, ..published() };
    let declared = Facts { declared: true, absent: Some(Absent::default()), ..Facts::default() };
    assert_eq!(settle(&record, &declared, at(9999)), Some(record.clone()));
    assert_eq!(settle(&record, &Facts { declared: false, ..declared.clone() }, at(9999)), None);
    assert_eq!(settle(&Record { withdraw: false, ..record }, &declared, at(9999)), None);
}

/// What is only intended, or may be gone already, is not told as published.
#[test]
fn only_what_was_read_back_is_confirmed() {
    let confirmed = |record: &Record| record.published.as_ref().is_some_and(|published| published.confirmed);
    let mx = wanted(&spec(), "mail.example.org");
    let intended = Record::new("example.org", "mail", spec()).intending(&mx);
    assert!(!confirmed(&intended) && confirmed(&published()) && confirmed(&published().intending(&mx)));
    assert!(!confirmed(&published().intending(&MxSet { ttl: 60, ..mx })));
    let spec = spec();
    let leaving = settle(&published(), &Facts::default(), at(0)).expect("stays");
    let back =
        settle(&leaving, &Facts { claim: Some((&spec, "mail")), ..Facts::default() }, at(1)).expect("stays");
    assert!(!confirmed(&leaving) && !confirmed(&back));
}

#[test]
fn a_queue_that_never_empties_is_waited_for_to_the_deadline() {
    let record = Record { phase: Phase::Draining { until: at(0) }, ..published() };
    let facts = Facts { queued: Some(1), absent: Some(Absent::default()), ..Facts::default() };
    assert_eq!(settle(&record, &facts, at(999)).expect("stays").phase, record.phase);
    assert_eq!(settle(&record, &facts, at(1000)).expect("stays").phase, Phase::Leaving);
}

#[test]
fn a_longer_ttl_found_in_dns_counts() {
    let record = Record { phase: Phase::Withdrawing { since: at(0) }, ..published() };
    let facts = Facts {
        absent: Some(Absent { held_ttl: 86_400, lag_seconds: 7, ..Absent::default() }),
        ..Facts::default()
    };
    assert_eq!(
        settle(&record, &facts, at(0)).expect("stays").phase,
        Phase::Draining { until: at(86_400 + 30 + 60) }
    );
}

/// A write that arrives while the domain drains is found before Postfix lets the domain go.
#[test]
fn what_stands_again_at_the_end_of_a_drain_drains_anew() {
    let record = Record { phase: Phase::Draining { until: at(0) }, published: None, ..published() };
    let due = |queued, now| may_leave(&record, queued, LIMITS, at(now));
    assert!(due(Some(0), 0) && !due(Some(0), -1) && !due(Some(1), 0) && !due(None, 0) && due(None, 1000));
    assert_eq!(dns_task(&record, None, true), Some(DnsTask::Withdraw));
    assert_eq!(dns_task(&record, None, false), None);

    let again = Absent { held_ttl: 3600, lag_seconds: 7, removed: true, ..Absent::default() };
    let facts = |absent| Facts { absent: Some(absent), queued: Some(0), ..Facts::default() };
    let later = settle(&record, &facts(again), at(5)).expect("stays");
    assert_eq!(later.phase, Phase::Draining { until: at(5 + 3600 + 7 + 60) });
    let mut immediate = record.clone();
    immediate.spec.withdrawal = Withdrawal::Immediate;
    assert_eq!(settle(&immediate, &facts(again), at(5)).expect("stays").phase, Phase::Leaving);

    let named = Absent { names_us: true, ..Absent::default() };
    assert_eq!(settle(&record, &facts(named), at(999)).expect("stays").phase, record.phase);
    assert_eq!(settle(&record, &facts(named), at(1000)).expect("stays").phase, Phase::Leaving);
}

#[test]
fn what_the_brake_holds_stays_in_service() {
    let held = Record { held: true, ..published() };
    assert_eq!(settle(&held, &Facts::default(), at(9)), Some(held.clone()));
    let draining = Record { phase: Phase::Draining { until: at(0) }, ..held };
    let facts = Facts { absent: Some(Absent::default()), queued: Some(0), ..Facts::default() };
    assert_eq!(settle(&draining, &facts, at(9)).expect("stays").phase, Phase::Leaving);
}

#[test]
fn immediate_does_not_wait_for_caches() {
    let mut record = Record { phase: Phase::Withdrawing { since: at(0) }, ..published() };
    record.spec.withdrawal = Withdrawal::Immediate;
    let facts = Facts {
        absent: Some(Absent { held_ttl: 86_400, lag_seconds: 7, ..Absent::default() }),
        queued: Some(0),
        ..Facts::default()
    };
    assert_eq!(settle(&record, &facts, at(5)).expect("stays").phase, Phase::Leaving);
}

/// But it waits for its queue, as long as any domain does.
#[test]
fn immediate_waits_for_what_is_queued() {
    let mut record = published();
    record.spec.withdrawal = Withdrawal::Immediate;
    let facts = |queued| Facts { absent: Some(Absent::default()), queued, ..Facts::default() };
    for queued in [None, Some(1)] {
        let waiting = settle(&record, &facts(queued), at(2_000_000)).expect("stays");
        assert_eq!(waiting.phase, Phase::Draining { until: at(2_000_000) });
        let waiting = settle(&waiting, &facts(queued), at(2_000_999)).expect("stays");
        assert_eq!(waiting.phase, Phase::Draining { until: at(2_000_000) });
        assert_eq!(settle(&waiting, &facts(queued), at(2_001_000)).expect("stays").phase, Phase::Leaving);
    }
}

#[test]
fn a_claim_ends_the_way_out_wherever_it_stands() {
    let spec = spec();
    let facts = Facts { claim: Some((&spec, "mail")), ..Facts::default() };
    for phase in [
        Phase::Withdrawing { since: at(0) },
        Phase::Draining { until: at(5) },
        Phase::Leaving,
        Phase::Withdrawn { check: at(7) },
    ] {
        let record = Record { phase, ..published() };
        assert_eq!(settle(&record, &facts, at(0)).expect("stays").phase, Phase::Serving);
    }
}

fn serving(programmed: bool, rights: Rights) -> Option<Serving<'static>> {
    Some(Serving { hostname: "mail.example.org", programmed, rights })
}

const NONE: Rights = Rights { adopt: false, unmanaged: false };
const ALL: Rights = Rights { adopt: true, unmanaged: true };

#[test]
fn nothing_is_published_before_the_proof() {
    let record = Record::new("example.org", "mail", spec());
    assert_eq!(dns_task(&record, serving(false, ALL), false), None);
    let expected = DnsTask::Publish {
        mx: MxSet { ttl: 3600, records: [Mx { preference: 10, host: "mail.example.org".to_owned() }].into() },
        zone: None,
        adopt: false,
    };
    assert_eq!(dns_task(&record, serving(true, ALL), false), Some(expected));
    assert_eq!(dns_task(&published(), serving(false, ALL), false), None, "and not withdrawn without need");
    let leaving = Record { phase: Phase::Leaving, ..published() };
    assert_eq!(dns_task(&leaving, serving(true, ALL), false), None);
}

#[test]
fn without_its_cell_a_domain_is_withdrawn_and_not_published() {
    assert_eq!(dns_task(&published(), None, false), None);
    let leaving = Record { phase: Phase::Withdrawing { since: at(0) }, ..published() };
    assert_eq!(dns_task(&leaving, None, false), Some(DnsTask::Withdraw));
}

#[test]
fn rights_decide_about_adopting_and_about_staying_unpublished() {
    let adopts = |rights| {
        let mut record = published();
        record.spec.dns.adopt = true;
        matches!(dns_task(&record, serving(true, rights), false), Some(DnsTask::Publish { adopt: true, .. }))
    };
    assert!(adopts(ALL) && !adopts(NONE));
    let mut record = published();
    record.spec.dns.managed = false;
    assert_eq!(dns_task(&record, serving(true, ALL), false), Some(DnsTask::Withdraw));
    assert_eq!(dns_task(&record, serving(true, NONE), false), None, "what is published stays");
    record.published = None;
    assert_eq!(dns_task(&record, serving(true, ALL), false), None);
}

#[test]
fn a_zone_that_is_away_for_a_moment_makes_no_mx_forgotten() {
    let mut unmanaged = spec();
    unmanaged.dns.managed = false;
    let absent = Some(Absent { names_us: true, zone_away: true, ..Absent::default() });
    let facts = Facts { claim: Some((&unmanaged, "mail")), absent, ..Facts::default() };
    let record = settle(&published(), &facts, at(100)).expect("stays");
    assert_eq!(record.published, published().published);
}

/// Whatever happens in between, the domain is served for as long as an MX of ours may be held.
#[test]
fn what_resolvers_hold_is_remembered_while_the_domain_is_served() {
    let mut unmanaged = spec();
    unmanaged.dns.managed = false;
    let absent = Some(Absent { names_us: true, ..Absent::default() });
    let facts = Facts { claim: Some((&unmanaged, "mail")), absent, ..Facts::default() };
    let record = settle(&published(), &facts, at(100)).expect("stays");
    assert_eq!((&record.phase, &record.published), (&Phase::Serving, &None));
    let held = at(100 + 3600 + 30 + 60);
    assert_eq!(record.held_until, Some(held));

    // Managed again, and deleted before anything was published.
    let managed = spec();
    let facts = Facts { claim: Some((&managed, "mail")), ..Facts::default() };
    let record = settle(&record, &facts, at(200)).expect("stays");
    let record = settle(&record, &Facts::default(), at(300)).expect("stays");
    assert_eq!(record.phase, Phase::Draining { until: held });

    // Back during the drain, and deleted again.
    let record = settle(&record, &facts, at(400)).expect("stays");
    assert_eq!((&record.phase, record.held_until), (&Phase::Serving, Some(held)));
    let record = settle(&record, &Facts::default(), at(500)).expect("stays");
    assert_eq!(record.phase, Phase::Draining { until: held });
}

#[test]
fn somebody_elses_mx_that_names_us_is_waited_for_to_the_deadline() {
    let mut record = Record::new("example.org", "mail", spec());
    record.spec.dns.managed = false;
    let named = Absent { names_us: true, ..Absent::default() };
    let facts = |absent| Facts { absent: Some(absent), queued: Some(0), ..Facts::default() };
    let waiting = settle(&record, &facts(named), at(0)).expect("stays");
    assert_eq!(waiting.phase, Phase::Withdrawing { since: at(0) });
    assert_eq!(settle(&waiting, &facts(named), at(999)).expect("stays").phase, waiting.phase);
    let gone = settle(&waiting, &facts(Absent::default()), at(999)).expect("stays");
    assert_eq!(gone.phase, Phase::Draining { until: at(999 + 3600 + 60) }, "its TTL is what the spec says");
    let late = settle(&waiting, &facts(named), at(1000)).expect("stays");
    assert!(matches!(late.phase, Phase::Draining { .. }));
}
