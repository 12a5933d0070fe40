//! The part of a pass that brings the directory up to date: in place where a few Mailboxes changed, else anew.

use std::collections::BTreeMap;
use std::sync::Arc;

use tokio::time::Instant;

use crate::directory::{Change, Directory, Rules, brake};
use crate::records::Record;

use super::{Reconciler, STEPS};
use crate::operator::index::Changes;

impl Reconciler {
    pub(super) fn records(&self) -> BTreeMap<String, Record> {
        self.index.records.iter().map(|(domain, stored)| (domain.clone(), stored.record.clone())).collect()
    }

    /// Moves the records on until they stand still; what is served then follows from them.
    #[tracing::instrument(target = "timing", level = "debug", skip_all, name = "records")]
    pub(super) async fn settle_records(&mut self) {
        for _ in 0..STEPS {
            let directory = self.directory();
            let changes = self.record_changes(&directory);
            drop(directory);
            if changes.is_empty() {
                return;
            }
            self.store(changes).await;
        }
        self.directory();
    }

    /// What the rules make of all that is known now.
    #[tracing::instrument(target = "timing", level = "debug", skip_all, name = "rules")]
    fn directory(&mut self) -> Arc<Directory> {
        let changes = std::mem::take(&mut self.index.changes);
        if changes.is_empty() {
            return self.directory.clone();
        }
        let Changes { mailboxes, records: recorded, other } = changes;
        // A domain without a record is in no table, whatever the directory says.
        self.change.rest |= recorded;
        let records = self.records();
        let rules = Rules { config: &self.config, namespace: &self.namespace, records: &records };
        let objects = &self.index.objects;
        let few = !recorded && !other && !self.puts_back();
        if few && brake::all_asked(objects, &mailboxes, &self.index.asked) {
            let directory = Arc::make_mut(&mut self.directory);
            if let Some(change) = directory.update(objects, &mailboxes, rules) {
                self.change.add(&change);
                return self.directory.clone();
            }
        }
        let new = Arc::new(Directory::compute(objects, rules));
        let old = std::mem::replace(&mut self.directory, new.clone());
        match self.standing() {
            Some(standing) => {
                self.before = Some(Arc::new(standing));
                self.change.all = true;
            }
            None => drop(self.before.get_or_insert(old)),
        }
        new
    }

    /// What is served, with what the brake holds; tells everybody what of it is new.
    pub(super) fn served(&mut self) -> Arc<Directory> {
        let served = match self.before.take() {
            Some(before) => {
                let (before, served) = self.hold_addresses(before);
                if !self.change.all {
                    self.change.add(&Change::between(&before, &served));
                }
                served
            }
            None => self.put_back(),
        };
        self.forget_asked(&served);
        let change = std::mem::take(&mut self.change);
        for cell in self.cells.values_mut() {
            cell.changed(&change, Instant::now());
        }
        self.statuses.changed(&change);
        #[cfg(debug_assertions)]
        self.assert_nothing_was_missed(&served);
        served
    }

    /// Whether all this is what it would be if it were made of all objects.
    #[cfg(debug_assertions)]
    fn assert_nothing_was_missed(&self, served: &Directory) {
        let (objects, records) = (&self.index.objects, self.records());
        if objects.mailboxes.len() + objects.aliases.len() > crate::operator::CHECKED {
            return;
        }
        let rules = Rules { config: &self.config, namespace: &self.namespace, records: &records };
        let computed = Directory::compute(objects, rules);
        assert!(*self.directory == computed, "{:?}", Change::between(&self.directory, &computed));
        let missing = brake::missing_addresses(served, &computed, objects, &brake::Asked::default());
        assert!(missing.is_empty() != self.puts_back(), "{missing:?}");
    }
}
