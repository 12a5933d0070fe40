//! What one ConfigMap of tables can hold: 1 MiB (ConfigMap documentation), shared out between the kinds, so that
//! nobody's mailing list keeps somebody else's mailbox out. Who is older was there first.

use super::{AliasSpec, Refusal};
use crate::api::MailDomainSpec;
use crate::api::address::Address;
use crate::api::conditions::Reason;

/// Bytes of table text left for one kind.
pub struct Room {
    kind: &'static str,
    left: usize,
}

impl Room {
    /// For domains, with their role addresses.
    pub fn for_domains() -> Self {
        Self { kind: "domains", left: 300 * 1024 }
    }

    /// For mailboxes.
    pub fn for_mailboxes() -> Self {
        Self { kind: "mailboxes", left: 430 * 1024 }
    }

    /// For aliases.
    pub fn for_aliases() -> Self {
        Self { kind: "aliases", left: 250 * 1024 }
    }

    /// Takes the room for one more, or says that there is none.
    pub fn take(&mut self, bytes: usize) -> Result<(), Refusal> {
        match self.left.checked_sub(bytes) {
            Some(left) => {
                self.left = left;
                Ok(())
            }
            None => {
                // Full stays full: a smaller one that is younger must not slip in.
                self.left = 0;
                let message = format!(
                    "the tables have no room for more {}; delete what is not needed, or ask the administrator",
                    self.kind
                );
                Err(Refusal::new(Reason::CapacityExceeded, message))
            }
        }
    }
}

/// Upper bound for a domain: its lines in three tables, and its role addresses.
pub fn domain(spec: &MailDomainSpec, default_postmaster: &str) -> usize {
    let postmaster = spec
        .postmaster
        .as_deref()
        .unwrap_or(default_postmaster)
        .len()
        .max("postmaster@".len() + spec.domain.len());
    let roles = spec.role_addresses.iter().map(|local| local.len() + spec.domain.len() + postmaster + 3);
    3 * spec.domain.len() + 120 + roles.sum::<usize>()
}

/// A mailbox: address, path, separators.
pub fn mailbox(address: &Address) -> usize {
    2 * (address.domain().len() + address.local().len()) + 5
}

/// An alias: address, targets, separators.
pub fn alias(spec: &AliasSpec) -> usize {
    let length = |address: &Address| address.domain().len() + address.local().len() + 3;
    length(&spec.address) + spec.targets.iter().map(length).sum::<usize>()
}
