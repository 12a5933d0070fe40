//! Where mail for an address ends, worked out once more and naively: every rule as a sentence, nothing remembered,
//! nothing shared with the directory.

use std::collections::BTreeSet;

use vmail_operator::api::address::Address;
use vmail_operator::api::{DomainClass, MailDomainSpec, NamespacesFrom};
use vmail_operator::directory::{AliasSpec, Object, ObjectId, Objects};

use crate::sets::HOST;

const DEFAULT_POSTMASTER: &str = "hostmaster@elsewhere.example";
const RESTRICTED: [&str; 7] =
    ["admin", "administrator", "hostmaster", "postmaster", "webmaster", "abuse", "root"];

/// What is served, as plain lists.
pub struct Reference {
    domains: Vec<(ObjectId, MailDomainSpec)>,
    mailboxes: Vec<(ObjectId, String)>,
    aliases: Vec<(ObjectId, String, Vec<String>)>,
    /// Role addresses and catch-alls; the latter begin with `@`.
    implied: Vec<(String, String)>,
}

/// Where one message goes.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum End {
    Maildir(String),
    Remote(String),
}

fn in_order<S>(objects: impl Iterator<Item = (ObjectId, Object<S>)>) -> Vec<(i64, i64, ObjectId, S)> {
    let mut all: Vec<_> = objects
        .filter(|(_, object)| !object.deleting)
        .filter_map(|(id, object)| Some((object.created, object.changed, id, object.spec.ok()?)))
        .collect();
    all.sort_by(|a, b| (a.0, &a.2).cmp(&(b.0, &b.2)));
    all
}

impl Reference {
    pub fn of(objects: &Objects) -> Self {
        let mut this = Self { domains: vec![], mailboxes: vec![], aliases: vec![], implied: vec![] };
        for (_, _, id, spec) in in_order(objects.domains.clone().into_iter()) {
            let permitted = id.namespace() == "mail"
                || ["one.example", "two.example"].contains(&spec.domain.as_str())
                || (id.namespace() == "b" && spec.domain.ends_with(".example"));
            let taken = this.domain(&spec.domain).is_some();
            if permitted && !taken && spec.domain != HOST && spec.cell == "default" {
                this.domains.push((id, spec));
            }
        }
        this.let_addresses_in(objects);
        this.make_what_domains_imply();
        this
    }

    fn domain(&self, name: &str) -> Option<&(ObjectId, MailDomainSpec)> {
        self.domains.iter().find(|(_, spec)| spec.domain == name)
    }

    fn let_addresses_in(&mut self, objects: &Objects) {
        let mailboxes = in_order(objects.mailboxes.clone().into_iter());
        let aliases = in_order(objects.aliases.clone().into_iter());
        let mut declared: Vec<(i64, ObjectId, AliasSpec)> = vec![];
        // Everything in one order of age; of two of the same age the Mailbox, then by name.
        let mut turns: Vec<(i64, u8, ObjectId)> = vec![];
        turns.extend(mailboxes.iter().map(|(created, _, id, _)| (*created, 0, id.clone())));
        turns.extend(aliases.iter().map(|(created, _, id, _)| (*created, 1, id.clone())));
        turns.sort();
        for (_, kind, id) in turns {
            if kind == 0 {
                let (_, _, _, address) = mailboxes.iter().find(|mailbox| mailbox.2 == id).unwrap();
                let class = self.domain(address.domain()).map(|(_, spec)| spec.class);
                let free = self.mailboxes.iter().all(|(_, taken)| *taken != address.to_string());
                let strangers_alias = declared
                    .iter()
                    .any(|(_, alias, spec)| spec.address == *address && alias.namespace() != id.namespace());
                if self.may_join(&id, address)
                    && class == Some(DomainClass::Mailbox)
                    && free
                    && !strangers_alias
                {
                    self.mailboxes.push((id, address.to_string()));
                }
            } else {
                let (_, changed, _, spec) = aliases.iter().find(|alias| alias.2 == id).unwrap();
                let free = declared.iter().all(|(_, _, other)| other.address != spec.address);
                if self.may_join(&id, &spec.address) && free && self.leaves_mailbox(&id, spec) {
                    declared.push((*changed, id, spec.clone()));
                }
            }
        }
        declared.retain(|(_, id, spec)| self.leaves_mailbox(id, spec));
        declared.sort_by(|a, b| (a.0, &a.1).cmp(&(b.0, &b.1)));
        for (_, id, spec) in declared {
            let targets = spec.targets.iter().map(Address::to_string).collect();
            self.aliases.push((id, spec.address.to_string(), targets));
            if self.leads_back() {
                self.aliases.pop();
            }
        }
    }

    fn may_join(&self, id: &ObjectId, address: &Address) -> bool {
        let Some((owner, spec)) = self.domain(address.domain()) else { return false };
        let same = owner.namespace() == id.namespace();
        let allowed = match spec.allowed_namespaces.from {
            NamespacesFrom::Same => same,
            NamespacesFrom::All => true,
            NamespacesFrom::Names => {
                same || spec.allowed_namespaces.names.iter().any(|name| name == id.namespace())
            }
        };
        allowed && (same || !RESTRICTED.contains(&address.local()))
    }

    fn leaves_mailbox(&self, id: &ObjectId, spec: &AliasSpec) -> bool {
        let address = spec.address.to_string();
        match self.mailboxes.iter().find(|(_, mailbox)| *mailbox == address) {
            None => true,
            Some((owner, _)) => owner.namespace() == id.namespace() && spec.targets.contains(&spec.address),
        }
    }

    fn make_what_domains_imply(&mut self) {
        let mut wanted = vec![];
        let declared = |address: &String, this: &Self| {
            this.mailboxes.iter().any(|(_, mailbox)| mailbox == address)
                || this.aliases.iter().any(|(_, alias, _)| alias == address)
        };
        let default: Vec<String> = ["postmaster", "abuse", "root"].map(str::to_owned).to_vec();
        let mut domains: Vec<(String, Vec<String>, String)> = self
            .domains
            .iter()
            .map(|(_, spec)| {
                let postmaster = spec.postmaster.clone().unwrap_or_else(|| DEFAULT_POSTMASTER.to_owned());
                (spec.domain.clone(), spec.role_addresses.clone(), postmaster)
            })
            .collect();
        domains.sort();
        domains.push((HOST.to_owned(), default, DEFAULT_POSTMASTER.to_owned()));
        for (domain, roles, postmaster) in domains {
            let own = format!("postmaster@{domain}");
            let target = if declared(&own, self) { own } else { postmaster };
            for role in roles {
                let address = format!("{role}@{domain}");
                if !declared(&address, self) {
                    wanted.push((address, target.clone()));
                }
            }
        }
        let mut catch_alls: Vec<(String, String)> = self
            .domains
            .iter()
            .filter_map(|(_, spec)| Some((format!("@{}", spec.domain), spec.catch_all.clone()?)))
            .collect();
        catch_alls.sort();
        for (address, target) in wanted.into_iter().chain(catch_alls) {
            let implied = self.implied.iter().any(|(implied, _)| *implied == target);
            if address.starts_with('@') && !implied && !declared(&target, self) {
                continue;
            }
            self.implied.push((address, target));
            if self.leads_back() {
                self.implied.pop();
            }
        }
        // Role addresses that lead nowhere, and postmaster@ even where somebody declared it.
        let nowhere = |address: &String| !address.starts_with('@') && self.ends(address).is_empty();
        let roles: Vec<bool> = self.implied.iter().map(|(address, _)| nowhere(address)).collect();
        let postmaster = |address: &String| address.starts_with("postmaster@") && nowhere(address);
        let declared: Vec<bool> = self.aliases.iter().map(|(_, address, _)| postmaster(address)).collect();
        for ((_, target), _) in self.implied.iter_mut().zip(roles).filter(|(_, dead)| *dead) {
            *target = DEFAULT_POSTMASTER.to_owned();
        }
        for ((_, _, targets), _) in self.aliases.iter_mut().zip(declared).filter(|(_, dead)| *dead) {
            *targets = vec![DEFAULT_POSTMASTER.to_owned()];
        }
    }

    fn is_ours(&self, domain: &str) -> bool {
        domain == HOST || self.domain(domain).is_some()
    }

    /// What is rewritten to what, as Postfix asks: the address, the address without its tag, any address.
    fn rewritten(&self, address: &str) -> Option<(String, Vec<String>)> {
        let (local, domain) = address.rsplit_once('@').unwrap();
        let local = local.to_lowercase();
        let base = local.split('+').next().unwrap();
        let base = if base.is_empty() { local.as_str() } else { base };
        for key in [format!("{local}@{domain}"), format!("{base}@{domain}"), format!("@{domain}")] {
            if let Some((_, alias, targets)) = self.aliases.iter().find(|(_, alias, _)| *alias == key) {
                return Some((alias.clone(), targets.clone()));
            }
            if self.mailboxes.iter().any(|(_, mailbox)| *mailbox == key) {
                return None;
            }
            if let Some((implied, target)) = self.implied.iter().find(|(implied, _)| *implied == key) {
                return Some((implied.clone(), vec![target.clone()]));
            }
        }
        None
    }

    /// Whether any address leads back to itself.
    fn leads_back(&self) -> bool {
        let starts = self.aliases.iter().map(|(_, alias, _)| alias.clone());
        starts.chain(self.implied.iter().map(|(implied, _)| implied.clone())).any(|start| {
            let mut reached: BTreeSet<String> = BTreeSet::new();
            let mut open = vec![start.clone()];
            while let Some(address) = open.pop() {
                // `@domain` itself is looked up as any address of it that nobody has.
                let asked =
                    if address.starts_with('@') { format!("nobody-at-all{address}") } else { address };
                let Some((key, targets)) = self.rewritten(&asked) else { continue };
                for target in targets {
                    let copy = target == key && self.mailboxes.iter().any(|(_, mailbox)| *mailbox == target);
                    if copy {
                        continue;
                    }
                    if self.rewritten(&target).is_some_and(|(next, _)| next == start) {
                        return true;
                    }
                    if reached.insert(target.clone()) {
                        open.push(target);
                    }
                }
            }
            false
        })
    }

    /// Where mail for an address goes; nowhere when it is refused.
    pub fn ends(&self, address: &str) -> BTreeSet<End> {
        let (local, domain) = address.rsplit_once('@').unwrap();
        match self.rewritten(address) {
            Some((key, targets)) => targets
                .iter()
                .flat_map(|target| {
                    let copy = *target == key && self.mailboxes.iter().any(|(_, mailbox)| mailbox == target);
                    if copy { BTreeSet::from([End::Maildir(target.clone())]) } else { self.ends(target) }
                })
                .collect(),
            None if !self.is_ours(domain) => BTreeSet::from([End::Remote(address.to_owned())]),
            None => {
                let local = local.to_lowercase();
                let base = local.split('+').next().unwrap().to_owned();
                let found = [local, base].map(|local| format!("{local}@{domain}"));
                let mailbox = self.mailboxes.iter().find(|(_, mailbox)| found.contains(mailbox));
                mailbox.map(|(_, mailbox)| End::Maildir(mailbox.clone())).into_iter().collect()
            }
        }
    }

    /// Whether RCPT TO must be answered 250.
    pub fn accepts(&self, address: &str) -> bool {
        let domain = address.rsplit_once('@').unwrap().1;
        self.is_ours(domain) && !self.ends(address).is_empty()
    }

    pub fn domains(&self) -> BTreeSet<ObjectId> {
        self.domains.iter().map(|(id, _)| id.clone()).collect()
    }

    pub fn mailboxes(&self) -> BTreeSet<ObjectId> {
        self.mailboxes.iter().map(|(id, _)| id.clone()).collect()
    }

    pub fn aliases(&self) -> BTreeSet<ObjectId> {
        self.aliases.iter().map(|(id, _, _)| id.clone()).collect()
    }
}
