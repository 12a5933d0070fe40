//! Traps of hand-made files, one by one.

use std::path::PathBuf;

use super::*;
use crate::api::DomainClass;
use crate::api::address::Address;
use translate::New;

fn import(domains: &str, mailboxes: &str, aliases: &str) -> (New, String) {
    let directory = tempfile::tempdir().expect("a directory");
    let write = |name: &str, text: &str| -> Option<PathBuf> {
        let file = directory.path().join(name);
        std::fs::write(&file, text).expect("writes");
        Some(file)
    };
    let options = ImportOptions {
        config_directory: None,
        domains: write("domains", domains),
        mailboxes: write("mailboxes", mailboxes),
        aliases: write("aliases", aliases),
        namespace: None,
        out: None,
    };
    let mut report = Report::default();
    let old = from_files(&options, &mut report).expect("read");
    let new = translate(&old, &mut report);
    (new, report.to_string().replace(&format!("{}/", directory.path().display()), ""))
}

fn own(text: &str) -> Address {
    Address::own(text).expect("valid")
}

fn targets(new: &New, address: &str) -> Vec<String> {
    new.aliases.get(&own(address)).into_iter().flatten().map(Address::to_string).collect()
}

const DOMAINS: &str = "Example.ORG OK\nexample.net\tanything at all\n";

#[test]
fn plain_files_are_carried_over_whole() {
    let (new, report) = import(
        DOMAINS,
        "# people\nYou@Example.org  example.org/you/\n  # still\nme@example.net example.net/me/\r\n",
        "list@example.org you@example.org, me@example.net\n  Friend@Elsewhere.example\nyou@example.org you@example.org x@elsewhere.example",
    );
    assert_eq!(report, "");
    assert!(new.domains.keys().eq(["example.net", "example.org"]));
    assert_eq!(new.mailboxes, [own("you@example.org"), own("me@example.net")].into());
    assert_eq!(
        targets(&new, "list@example.org"),
        ["Friend@elsewhere.example", "me@example.net", "you@example.org"]
    );
    assert_eq!(targets(&new, "you@example.org"), ["x@elsewhere.example", "you@example.org"]);
}

/// Mailboxes, aliases, and words that the report must hold.
#[test]
fn what_is_left_out_is_told_with_file_and_line() {
    for (mailboxes, aliases, says) in [
        (
            "a@elsewhere.example x/",
            "",
            "mailboxes:1: left out: a@elsewhere.example x/: its domain is in no list",
        ),
        ("a/b@example.org x/", "", "mailboxes:1: left out: a/b@example.org x/: an address has letters"),
        ("a+b@example.org x/", "", "has no `+`"),
        ("\"a b\"@example.org x/", "", "left out: \"a b\"@example.org x/"),
        ("a@b\u{fc}cher.example x/", "", "A-labels"),
        ("a@example.org", "", "a key and no value"),
        (
            "a@example.org example.org/a/\nA@example.org example.org/b/",
            "",
            "mailboxes:2: left out: a@example.org example.org/b/: a@example.org stands in line 1",
        ),
        (
            "a@example.org example.org/a",
            "",
            "mailboxes:1: note: a@example.org example.org/a: it is a mailbox file",
        ),
        ("a@example.org org/a/Maildir/", "", "move org/a/Maildir/ there"),
        ("", "a@example.org |/bin/cmd", "a@example.org -> |/bin/cmd: commands, files"),
        ("", "a@example.org :include:/etc/list", "commands, files"),
        ("", "a@example.org /var/mail/a", "commands, files"),
        ("", "a@example.org root", "a local user of the old server"),
        ("", "a@example.org \"a b\"@x.example", "not a plain address"),
        ("", "root you@example.org", "aliases:1: left out: root you@example.org: it is about a local user"),
        (
            "",
            "a@elsewhere.example x@example.org",
            "aliases:1: left out: a@elsewhere.example x@example.org: its domain",
        ),
        ("", "a@example.org a@example.org", "leads to itself"),
        (
            "a@example.org example.org/a/",
            "a@example.org x@remote.example",
            "mailboxes:1: left out: a@example.org: the alias in line 1 of aliases takes all its mail",
        ),
        ("", "@example.org x@remote.example", "a catch-all must be"),
        ("", "@example.org x@remote.example, y@remote.example", "a catch-all has one address"),
        ("", "@example.org @remote.example", "another that is not served here"),
        ("@example.org catchall/", "", "no mailbox has this Maildir"),
    ] {
        let (_, report) = import(DOMAINS, mailboxes, aliases);
        assert!(report.contains(says), "{mailboxes:?} {aliases:?}: {report}");
    }
    let many: Vec<String> = (0..101).map(|n| format!("u{n}@remote.example")).collect();
    let (_, report) = import(DOMAINS, "", &format!("a@example.org {}", many.join(",")));
    assert!(report.contains("101 targets"), "{report}");
    let (new, report) = import("example.org\nOK,\nb\u{fc}cher.example\n", "", "");
    assert!(report.contains("domains:2: left out: ok,:") && report.contains("domains:3"), "{report}");
    assert_eq!(new.domains.len(), 1);
}

#[test]
fn an_alias_that_takes_all_mail_wins_over_the_mailbox() {
    let (new, _) = import(DOMAINS, "a@example.org example.org/a/", "a@example.org x@remote.example");
    assert!(new.mailboxes.is_empty());
    assert_eq!(targets(&new, "a@example.org"), ["x@remote.example"]);
}

#[test]
fn catch_alls_are_carried_over_where_somebody_is_behind_them() {
    let catch_all = |new: &New| new.domains["example.org"].catch_all.as_ref().map(Address::to_string);
    let (new, report) = import(
        DOMAINS,
        "you@example.org example.org/you/",
        "@example.org YOU@example.org\nyou@example.org you@example.org",
    );
    assert_eq!((report.as_str(), catch_all(&new)), ("", Some("you@example.org".to_owned())));
    assert!(new.aliases.is_empty(), "the line that protects the mailbox is not needed");
    let (new, report) =
        import(DOMAINS, "you@example.org example.org/you/\n@example.org example.org/you/", "");
    assert_eq!((report.as_str(), catch_all(&new)), ("", Some("you@example.org".to_owned())));
}

#[test]
fn a_mirrored_domain_gets_each_address() {
    let (new, report) = import(
        DOMAINS,
        "you@example.org example.org/you/\nme@example.net example.net/me/",
        "list@example.org you@example.org\n@example.net @example.org\nsame@example.net @example.org, x@remote.example",
    );
    assert!(report.contains("aliases:2: note: @example.net @example.org: each address"), "{report}");
    assert_eq!(targets(&new, "you@example.net"), ["you@example.org"]);
    assert_eq!(targets(&new, "list@example.net"), ["list@example.org"]);
    assert_eq!(targets(&new, "same@example.net"), ["same@example.org", "x@remote.example"]);
    assert!(!new.aliases.contains_key(&own("me@example.net")));
}

#[test]
fn a_marked_domain_is_an_alias_domain() {
    let (new, report) = import(
        "example.org",
        "a@only.example x/",
        "only.example anything\nlist@only.example you@remote.example",
    );
    assert_eq!(new.domains["only.example"].class, DomainClass::Alias);
    assert_eq!(targets(&new, "list@only.example"), ["you@remote.example"]);
    assert!(
        report.contains("mailboxes:1: left out: a@only.example x/: its domain is an alias domain"),
        "{report}"
    );
}

#[test]
fn bytes_that_are_no_text_are_told_and_harm_nobody() {
    let directory = tempfile::tempdir().expect("a directory");
    let file = directory.path().join("aliases");
    std::fs::write(&file, b"a\xff@example.org x@remote.example\nb@example.org x@remote.example")
        .expect("writes");
    let mut report = Report::default();
    let entries = table::read_table(&file, &mut report).expect("read");
    assert_eq!(entries.len(), 1);
    assert!(report.to_string().contains("aliases:1: left out: the line: is not UTF-8"), "{report}");
}

#[test]
fn a_main_cf_is_followed_to_its_files() {
    let directory = tempfile::tempdir().expect("a directory");
    let write = |name: &str, text: &str| std::fs::write(directory.path().join(name), text).expect("writes");
    write(
        "main.cf",
        "# old server\nvirtual_mailbox_domains = /etc/postfix/domains, third.example\nvirtual_mailbox_base = /srv/mail\n\
         virtual_mailbox_maps = hash:/etc/postfix/mailboxes\n  proxy:mysql:/etc/postfix/sql.cf\n\
         virtual_alias_maps = hash:${config_directory}/aliases, regexp:/etc/postfix/re\nrecipient_delimiter = -\n",
    );
    write("domains", "example.org OK\n!secret.example\n");
    write("mailboxes", "you@example.org org/you/\nyou@third.example third.example/you/\n");
    write("aliases", "fourth.example x\nlist@fourth.example you@example.org\n");
    let mut report = Report::default();
    let old = from_main_cf(directory.path(), &mut report).expect("read");
    let new = translate(&old, &mut report);
    assert!(new.domains.keys().eq(["example.org", "fourth.example", "third.example"]), "{new:?}");
    assert_eq!(new.domains["fourth.example"].class, DomainClass::Alias);
    let report = report.to_string();
    for says in [
        "domains:1: note: OK: Postfix takes each word",
        "domains:2: left out: virtual_mailbox_domains = !secret.example: exceptions",
        "main.cf:4: left out: virtual_mailbox_maps = proxy:mysql:",
        "main.cf:6: left out: virtual_alias_maps = regexp:",
        "main.cf:7: note: recipient_delimiter = -:",
        "mailboxes:1: note: you@example.org org/you/: its Maildir will be /var/vmail/example.org/you/; move /srv/mail/org/you/ there",
    ] {
        assert!(report.contains(says), "{says}\n{report}");
    }
}

#[test]
fn names_are_valid_and_unique() {
    let (new, _) = import("example.org", "a.b@example.org x/\na-b@example.org x/\na_b@example.org x/", "");
    let files = manifests::files(&new, Some("mail")).expect("YAML");
    let text = &files["example.org.yaml"];
    let names: Vec<&str> = text.lines().filter_map(|line| line.strip_prefix("  name: ")).collect();
    assert_eq!(names.iter().collect::<std::collections::BTreeSet<_>>().len(), 4, "{names:?}");
    assert_eq!(text.matches("  namespace: mail\n").count(), 4);
    assert!(!text.contains("null") && !text.contains("status") && !text.contains("class"), "{text}");
}
