//! Directory → `transport_maps`: mail from a cell's aliases to domains of other cells goes straight to these. So does what
//! is queued for a domain on its way out, which waits for it, whether or not an alias still leads there.
//!
//! The domain's MX may not be there yet, may have other hosts too, or lead through a filter that has seen the message
//! already. The table decides where mail goes and never what is accepted (transport(5)): a domain of another cell
//! stays a stranger's domain to smtpd(8).

use std::collections::BTreeSet;
use std::fmt::Write;

use crate::api::address::Address;
use crate::directory::Directory;
use crate::revision::DomainState;

/// The table of one cell: `domain cell:[service]:25` for each domain of another cell that an alias here leads to, or that
/// drains. `service` names the Service of a cell.
pub fn transport_maps(
    directory: &Directory,
    cell: &str,
    hostname: &str,
    service: impl Fn(&str) -> String,
) -> String {
    let cell_of = |domain: &str| directory.domains.get(domain).map(|served| served.spec.cell.as_str());
    let here = |address: &Address| address.domain() == hostname || cell_of(address.domain()) == Some(cell);
    let targets =
        directory.aliases.iter().filter(|(address, _)| here(address)).flat_map(|(_, targets)| targets);
    let domains: BTreeSet<&str> =
        targets.map(Address::domain).chain(draining_elsewhere(directory, cell)).collect();
    let mut text = String::new();
    for domain in domains {
        if let Some(other) = cell_of(domain).filter(|other| *other != cell) {
            // Writing to a String cannot fail.
            let _ = writeln!(text, "{domain} cell:[{}]:25", service(other));
        }
    }
    text
}

/// The text of [`ELSEWHERE_FILE`](crate::revision::ELSEWHERE_FILE).
pub fn elsewhere(directory: &Directory, cell: &str) -> String {
    draining_elsewhere(directory, cell).map(|domain| format!("{domain} draining\n")).collect()
}

fn draining_elsewhere<'a>(directory: &'a Directory, cell: &str) -> impl Iterator<Item = &'a str> {
    let others = directory.domains.iter().filter(move |(_, served)| served.spec.cell != cell);
    others.filter(|(_, served)| served.state == DomainState::Draining).map(|(domain, _)| domain.as_str())
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;
    use crate::api::MailDomainSpec;
    use crate::directory::ServedDomain;

    #[test]
    fn only_what_aliases_lead_to_in_other_cells_has_a_route() {
        let served = |domain: &str, cell: &str| {
            let spec = format!("{{domain: {domain}, cell: {cell}}}");
            let spec: MailDomainSpec = serde_yaml::from_str(&spec).expect("valid");
            let state = DomainState::Serving;
            (domain.to_owned(), ServedDomain { state, claim: None, namespace: "mail".to_owned(), spec })
        };
        let aliases = |pairs: &[(&str, &str)]| -> BTreeMap<_, BTreeSet<_>> {
            let own = |text| Address::own(text).expect("valid");
            pairs.iter().map(|(address, target)| (own(address), BTreeSet::from([own(target)]))).collect()
        };
        let mut directory = Directory {
            domains: [
                served("one.example", "default"),
                served("own.example", "default"),
                served("two.example", "second"),
                served("three.example", "third"),
                served("unused.example", "second"),
            ]
            .into(),
            aliases: aliases(&[
                ("a@one.example", "u@two.example"),
                ("b@one.example", "u@own.example"),
                ("c@one.example", "x@remote.example"),
                ("postmaster@mx.example", "u@three.example"),
                ("a@two.example", "u@one.example"),
                ("a@three.example", "u@unused.example"),
            ]),
            ..Directory::default()
        };
        let text = |directory: &Directory| {
            transport_maps(directory, "default", "mx.example", |cell| format!("mail-smtp-{cell}"))
        };
        assert_eq!(
            text(&directory),
            "three.example cell:[mail-smtp-third]:25\ntwo.example cell:[mail-smtp-second]:25\n"
        );
        let catch_all = Address::own("u@unused.example").expect("valid");
        directory.aliases.insert(Address::catch_all("one.example"), [catch_all].into());
        assert!(text(&directory).contains("unused.example cell:[mail-smtp-second]:25\n"));

        // The alias may go before the domain has.
        directory.aliases.clear();
        assert_eq!((text(&directory).as_str(), elsewhere(&directory, "default").as_str()), ("", ""));
        for domain in ["two.example", "own.example"] {
            directory.domains.get_mut(domain).expect("served").state = DomainState::Draining;
        }
        assert_eq!(text(&directory), "two.example cell:[mail-smtp-second]:25\n");
        assert_eq!(elsewhere(&directory, "default"), "two.example draining\n");
        assert_eq!(elsewhere(&directory, "second"), "own.example draining\n");
    }
}
