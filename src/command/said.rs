//! What is said of each object, as it is written out.

use serde::Serialize;

use crate::api::conditions::{Reason, Statement};
use crate::directory::{Directory, ObjectId, Verdict};
use crate::manifests::Kind;
use crate::status;

/// What is said of one object.
pub struct Said {
    /// The object.
    pub object: (Kind, ObjectId),
    /// Its conditions, `Accepted` first. Those that need a cluster are left out.
    pub statements: Vec<Statement>,
}

impl Said {
    /// Whether the rules let the object in.
    pub fn accepted(&self) -> bool {
        self.statements.first().is_some_and(Statement::holds)
    }

    /// Whether a condition does not hold for this reason.
    pub fn refused_for(&self, reason: Reason) -> bool {
        self.statements.iter().any(|statement| !statement.holds() && statement.reason == reason)
    }

    /// The first condition that does not hold.
    pub fn trouble(&self) -> Option<&Statement> {
        self.statements.iter().find(|statement| !statement.holds())
    }
}

/// What is said of all objects, sorted by kind, namespace and name.
pub fn said(directory: &Directory) -> Vec<Said> {
    let alone = |verdict: &Verdict| vec![status::accepted(verdict)];
    let with_refs = |verdict: &Verdict| vec![status::accepted(verdict), status::resolved_refs(verdict)];
    let of = |kind: Kind, id: &ObjectId, statements| Said { object: (kind, id.clone()), statements };
    let aliases =
        directory.alias_verdicts.iter().map(|(id, verdict)| of(Kind::MailAlias, id, with_refs(verdict)));
    let domains =
        directory.domain_verdicts.iter().map(|(id, verdict)| of(Kind::MailDomain, id, with_refs(verdict)));
    let mailboxes =
        directory.mailbox_verdicts.iter().map(|(id, verdict)| of(Kind::Mailbox, id, alone(verdict)));
    aliases.chain(domains).chain(mailboxes).collect()
}

/// [`Said`] as it is printed; the names of the fields are API.
#[derive(Serialize)]
pub struct Printed<'a> {
    kind: &'static str,
    namespace: &'a str,
    name: &'a str,
    conditions: Vec<Condition<'a>>,
}

#[derive(Serialize)]
struct Condition<'a> {
    #[serde(rename = "type")]
    kind: &'static str,
    status: &'static str,
    reason: &'static str,
    message: &'a str,
}

impl<'a> From<&'a Said> for Printed<'a> {
    fn from(said: &'a Said) -> Self {
        let (kind, id) = &said.object;
        let conditions = said.statements.iter().map(|statement| Condition {
            kind: statement.kind,
            status: statement.status,
            reason: statement.reason.as_str(),
            message: &statement.message,
        });
        Self {
            kind: kind.as_str(),
            namespace: id.namespace(),
            name: id.name(),
            conditions: conditions.collect(),
        }
    }
}
