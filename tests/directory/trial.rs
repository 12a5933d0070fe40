//! Runs a property over generated sets of objects, and says how many were tried.

use std::cell::Cell;
use std::fmt::Debug;
use std::time::Instant;

use proptest::prelude::*;
use proptest::test_runner::{TestError, TestRunner};
use vmail_operator::directory::Objects;

/// How many cases a variable of the environment asks for.
pub fn cases(variable: &str, default: u32) -> u32 {
    std::env::var(variable).ok().and_then(|cases| cases.parse().ok()).unwrap_or(default)
}

/// What a property is about: some sets, perhaps with something besides.
pub trait Case: Debug {
    fn sets(&self) -> &[Objects];
}

impl<const N: usize> Case for [Objects; N] {
    fn sets(&self) -> &[Objects] {
        self
    }
}

impl<T: Debug> Case for (Objects, T) {
    fn sets(&self) -> &[Objects] {
        std::slice::from_ref(&self.0)
    }
}

/// Panics with the smallest case it finds for which the property does not hold.
pub fn holds<C: Case>(
    cases: u32,
    generated: impl Strategy<Value = C>,
    property: impl Fn(C) -> Result<(), TestCaseError>,
) {
    let (began, sets, objects) = (Instant::now(), Cell::new(0), Cell::new(0));
    let config = ProptestConfig {
        cases,
        failure_persistence: None,
        max_shrink_time: 60_000,
        ..ProptestConfig::default()
    };
    let result = TestRunner::new(config).run(&generated, |case| {
        for Objects { domains, mailboxes, aliases, .. } in case.sets() {
            sets.set(sets.get() + 1);
            objects.set(objects.get() + domains.len() + mailboxes.len() + aliases.len());
        }
        property(case)
    });
    let test = std::thread::current().name().unwrap_or_default().to_owned();
    println!("{test}: {} sets with {} objects in {:.1?}", sets.get(), objects.get(), began.elapsed());
    match result {
        Ok(()) => {}
        Err(TestError::Fail(why, case)) => panic!("{why}\nsmallest case: {case:#?}"),
        Err(TestError::Abort(why)) => panic!("{why}"),
    }
}
