//! What happens to mail for one address, step by step: the tables read as Postfix reads them, with the objects behind
//! each line. Pure.

use std::collections::BTreeSet;
use std::fmt;

use serde::Serialize;

use super::{Directory, Object, ObjectId, Objects, Refusal, Rules, ServedDomain, Verdict};
use crate::api::DomainClass;
use crate::api::address::Address;
use crate::postfix::main_cf::MAILBOX_BASE;
use crate::postfix::tables::maildir;
use crate::records::wanted;
use crate::revision::DomainState;

/// What happens to mail for one address. Its JSON form is stable: fields are added, never changed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Trace {
    /// The address that was asked about.
    pub address: String,
    /// Whether RCPT TO is answered 250.
    pub accepted: bool,
    /// The SMTP reply code to RCPT TO: 250; 550 no such address; 554 the domain is not served; 450 try again.
    pub code: u16,
    /// Whether the brake keeps it, or its domain, in service although nothing declares it any more.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub held: bool,
    /// Why it is refused, one sentence for each cause.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub why: Vec<String>,
    /// The domain, where it is served.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub domain: Option<Domain>,
    /// Each alias on the way, in the order in which they are met.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub aliases: Vec<Rewriting>,
    /// Where the mail ends.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub ends: Vec<End>,
}

/// The domain of a traced address.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Domain {
    /// Its name.
    pub name: String,
    /// The accepted MailDomain, `namespace/name`; absent while the domain is withdrawn.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub mail_domain: Option<String>,
    /// `Mailbox` or `Alias`.
    pub class: DomainClass,
    /// The Postfix cell that serves it.
    pub cell: String,
    /// `Serving` or `Draining`.
    pub state: &'static str,
    /// The MX records that it shall have, `preference host`.
    pub mx: Vec<String>,
    /// Whether just these were read back from DNS.
    pub published: bool,
}

/// One alias on the way.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Rewriting {
    /// The address, or `@domain` for a catch-all.
    pub address: String,
    /// What made it: `MailAlias namespace/name`, or the MailDomain with the role address or catch-all.
    pub by: String,
    /// Where mail goes on to.
    pub targets: Vec<String>,
    /// Targets with nobody behind them.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub left_out: Vec<String>,
}

/// Where a copy of the mail ends.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct End {
    /// The recipient.
    pub address: String,
    /// The Mailbox, `namespace/name`; absent when the mail goes to another server.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub mailbox: Option<String>,
    /// Its Maildir in the pod.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub maildir: Option<String>,
}

impl Trace {
    /// Follows `address` through the directory that was computed from `objects` by `rules`.
    pub fn new(address: &Address, directory: &Directory, objects: &Objects, rules: Rules<'_>) -> Self {
        let mut walk =
            Walk { directory, objects, seen: BTreeSet::new(), aliases: Vec::new(), ends: Vec::new() };
        let host = rules.config.cells.values().any(|cell| cell.hostname == address.domain());
        let served = directory.domains.get(address.domain());
        let accepted = directory.accepts(address) && (host || served.is_some());
        let mut why = Vec::new();
        if accepted {
            walk.follow(address);
        } else {
            why = walk.causes(address, host);
        }
        let draining = served.is_some_and(|served| served.state == DomainState::Draining);
        let code = match (accepted, host || served.is_some(), draining) {
            (true, _, _) => 250,
            (false, false, _) => 554,
            (false, true, true) => 450,
            (false, true, false) => 550,
        };
        let domain = served.map(|served| Domain::new(address.domain(), served, rules));
        Self {
            address: address.to_string(),
            accepted,
            code,
            held: false,
            why,
            domain,
            aliases: walk.aliases,
            ends: walk.ends,
        }
    }
}

impl Domain {
    fn new(name: &str, served: &ServedDomain, rules: Rules<'_>) -> Self {
        let hostname = rules.config.cells.get(&served.spec.cell).map_or("", |cell| cell.hostname.as_str());
        let mx = wanted(&served.spec, hostname);
        let published = rules.records.get(name).and_then(|record| record.published.as_ref());
        Self {
            name: name.to_owned(),
            mail_domain: served.claim.as_ref().map(ObjectId::to_string),
            class: served.spec.class,
            cell: served.spec.cell.clone(),
            state: match served.state {
                DomainState::Serving => "Serving",
                DomainState::Draining => "Draining",
            },
            mx: mx.records.iter().map(|mx| format!("{} {}", mx.preference, mx.host)).collect(),
            published: published.is_some_and(|published| published.confirmed && published.mx == mx),
        }
    }
}

struct Walk<'a> {
    directory: &'a Directory,
    objects: &'a Objects,
    seen: BTreeSet<Address>,
    aliases: Vec<Rewriting>,
    ends: Vec<End>,
}

impl Walk<'_> {
    /// Expands one address (virtual(5)): the first line found counts, and an address that leads to itself ends there.
    fn follow(&mut self, address: &Address) {
        for key in address.lookup_order() {
            if let Some(targets) = self.directory.aliases.get(&key) {
                if !self.seen.insert(key.clone()) {
                    return;
                }
                let (by, declared) = self.maker(&key);
                let left_out = declared.difference(targets).map(Address::to_string).collect();
                let targets: Vec<Address> = targets.iter().cloned().collect();
                self.aliases.push(Rewriting {
                    address: key.to_string(),
                    by,
                    targets: targets.iter().map(Address::to_string).collect(),
                    left_out,
                });
                for target in targets {
                    if target == key { self.end(&target) } else { self.follow(&target) }
                }
                return;
            }
            if self.directory.mailboxes.contains_key(&key) {
                return self.end(&key);
            }
        }
        self.end(address);
    }

    fn end(&mut self, address: &Address) {
        let mailbox = self.directory.mailboxes.get(address);
        let end = End {
            address: address.to_string(),
            mailbox: mailbox.map(ObjectId::to_string),
            maildir: mailbox.map(|_| format!("{MAILBOX_BASE}/{}", maildir(address))),
        };
        if !self.ends.contains(&end) {
            self.ends.push(end);
        }
    }

    /// What made an alias, and all targets that it declares.
    fn maker(&self, key: &Address) -> (String, BTreeSet<Address>) {
        let draining = self.directory.domains.get(key.domain()).is_some_and(|served| served.claim.is_none());
        let declared = self.objects.aliases.iter().find_map(|(id, object)| {
            let spec = object.spec.as_ref().ok().filter(|spec| spec.address == *key)?;
            let live = draining || self.directory.alias_verdicts.get(id)?.accepted.is_ok();
            live.then(|| (format!("MailAlias {id}"), spec.targets.clone()))
        });
        declared.unwrap_or_else(|| {
            let what = if key.is_catch_all() { "catch-all" } else { "role address" };
            let of = match self.directory.domains.get(key.domain()) {
                Some(ServedDomain { claim: Some(id), .. }) => format!("MailDomain {id}"),
                Some(_) => format!("domain {}, which is being withdrawn", key.domain()),
                None => "the mail server itself".to_owned(),
            };
            (format!("{what} of {of}"), BTreeSet::new())
        })
    }

    /// Why nobody takes the address's mail: what was said of each object that would.
    fn causes(&self, address: &Address, host: bool) -> Vec<String> {
        let Directory { domain_verdicts, mailbox_verdicts, alias_verdicts, .. } = self.directory;
        let mut causes = Vec::new();
        if !host && !self.directory.domains.contains_key(address.domain()) {
            for (id, object) in &self.objects.domains {
                let claims = object.spec.as_ref().is_ok_and(|spec| spec.domain == address.domain());
                causes.extend(
                    domain_verdicts.get(id).filter(|_| claims).and_then(|said| cause("MailDomain", id, said)),
                );
            }
            if causes.is_empty() {
                causes.push(format!("no MailDomain serves {}", address.domain()));
            }
            return causes;
        }
        let keys: Vec<Address> = address.lookup_order().collect();
        fn declares<S>(object: &Object<S>, keys: &[Address], of: impl Fn(&S) -> &Address) -> bool {
            object.spec.as_ref().is_ok_and(|spec| keys.contains(of(spec)))
        }
        for (id, object) in &self.objects.mailboxes {
            let said = mailbox_verdicts.get(id).filter(|_| declares(object, &keys, |address| address));
            causes.extend(said.and_then(|said| cause("Mailbox", id, said)));
        }
        for (id, object) in &self.objects.aliases {
            let said = alias_verdicts.get(id).filter(|_| declares(object, &keys, |spec| &spec.address));
            causes.extend(said.and_then(|said| cause("MailAlias", id, said)));
        }
        if causes.is_empty() {
            causes.push(format!("no Mailbox, MailAlias or catch-all is behind {address}"));
        }
        causes
    }
}

fn cause(kind: &str, id: &ObjectId, verdict: &Verdict) -> Option<String> {
    let Refusal { reason, message } =
        verdict.accepted.as_ref().err().or_else(|| verdict.resolved_refs.as_ref().err())?;
    Some(format!("{kind} {id}: {}: {message}", reason.as_str()))
}

/// For a terminal.
impl fmt::Display for Trace {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { address, code, held, why, domain, aliases, ends, .. } = self;
        let meaning = match code {
            250 => "accepted",
            450 => "refused for now",
            _ => "refused",
        };
        writeln!(f, "{address}\n  answer   {code} {meaning}")?;
        if *held {
            writeln!(f, "  held     nothing declares it any more, and the brake keeps it as it was")?;
        }
        if let Some(Domain { name, mail_domain, class, cell, state, mx, published }) = domain {
            let by =
                mail_domain.as_ref().map_or("being withdrawn".to_owned(), |id| format!("MailDomain {id}"));
            writeln!(f, "  domain   {name} ({by}), class {class:?}, cell {cell}, {state}")?;
            let state = if *published { "published" } else { "not known to be published" };
            writeln!(f, "  MX       {} ({state})", mx.join(", "))?;
        }
        for Rewriting { address, by, targets, left_out } in aliases {
            writeln!(f, "  alias    {address} ({by}) -> {}", targets.join(", "))?;
            if !left_out.is_empty() {
                writeln!(f, "           left out, nobody is behind: {}", left_out.join(", "))?;
            }
        }
        for End { address, mailbox, maildir } in ends {
            match (mailbox, maildir) {
                (Some(id), Some(maildir)) => writeln!(f, "  mailbox  {address} (Mailbox {id}) in {maildir}")?,
                _ => writeln!(f, "  remote   {address}")?,
            }
        }
        for cause in why {
            writeln!(f, "  why      {cause}")?;
        }
        Ok(())
    }
}
