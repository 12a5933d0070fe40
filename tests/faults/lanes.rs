//! Runs side by side: each lane has servers of its own, and takes one run after the other.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;

use tokio::runtime::Handle;
use tokio::task::block_in_place;

use crate::world::Parts;

/// Whether every run is wanted, and not a few of each.
pub fn all() -> bool {
    std::env::var("VMAIL_FAULTS").is_ok_and(|value| value == "all")
}

pub struct Lanes(Vec<Parts>);

impl Lanes {
    /// One lane, or as many as there are processors when every run is wanted.
    pub async fn start() -> Self {
        let processors = thread::available_parallelism().map_or(1, usize::from);
        let mut lanes = Vec::new();
        for _ in 0..if all() { processors } else { 1 } {
            lanes.push(Parts::start().await);
        }
        Self(lanes)
    }

    /// What came of each job, in the order of the jobs, or none if it panicked. For a runtime with threads.
    pub fn run<J: Sync, R: Send>(
        &mut self,
        jobs: &[J],
        run: impl AsyncFn(&mut Parts, &J) -> R + Sync,
    ) -> Vec<Option<R>> {
        let (runtime, run, next) = (Handle::current(), &run, &AtomicUsize::new(0));
        let results = &Mutex::new(Vec::new());
        block_in_place(|| {
            thread::scope(|scope| {
                for parts in &mut self.0 {
                    let runtime = runtime.clone();
                    scope.spawn(move || {
                        while let number = next.fetch_add(1, Ordering::Relaxed)
                            && let Some(job) = jobs.get(number)
                        {
                            let job = AssertUnwindSafe(|| runtime.block_on(run(parts, job)));
                            let result = catch_unwind(job).ok();
                            if result.is_none() {
                                // Whatever it left behind is not the next one's.
                                *parts = runtime.block_on(Parts::start());
                            }
                            results.lock().expect("not poisoned").push((number, result));
                        }
                    });
                }
            });
        });
        let mut results = std::mem::take(&mut *results.lock().expect("not poisoned"));
        results.sort_by_key(|(number, _)| *number);
        results.into_iter().map(|(_, result)| result).collect()
    }
}
