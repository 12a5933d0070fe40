//! Where mail ends, written down by hand, and asked of Postfix and of the reference.

use std::collections::BTreeSet;

use vmail_operator::api::address::Address;
use vmail_operator::directory::{AliasSpec, Object, ObjectId, Objects};

use crate::generated::{directory, install};
use crate::mail::{Ends, ends, messages};
use crate::pod::{Pod, meanwhile, wait};
use crate::reference::{End, Reference};
use crate::revision::Wanted;
use crate::sets::HOST;

/// Objects, one a line, the oldest first, and where mail for some addresses ends. Nowhere: it is refused.
struct Situation {
    objects: &'static str,
    ends: &'static [(&'static str, &'static [&'static str])],
}

const SITUATIONS: &[Situation] = &[
    // A catch-all takes what nobody has, and nothing else.
    Situation {
        objects: "
            MailDomain {domain: one.example, catchAll: w@one.example, roleAddresses: [postmaster]}
            Mailbox u@one.example
            Mailbox w@one.example
            MailAlias sales@one.example u@one.example x@remote.example
            ",
        ends: &[
            ("u@one.example", &["u@one.example"]),
            ("U@one.example", &["u@one.example"]),
            ("u+tag@one.example", &["u@one.example"]),
            ("w@one.example", &["w@one.example"]),
            ("sales@one.example", &["u@one.example", "x@remote.example"]),
            ("Sales+tag@one.example", &["u@one.example", "x@remote.example"]),
            ("postmaster@one.example", &["hostmaster@elsewhere.example"]),
            ("postmaster+tag@one.example", &["hostmaster@elsewhere.example"]),
            ("abuse@one.example", &["w@one.example"]),
            ("whoever@one.example", &["w@one.example"]),
            ("whoever+tag@one.example", &["w@one.example"]),
        ],
    },
    // An alias that leads nowhere is not left to the catch-all.
    Situation {
        objects: "
            MailDomain {domain: one.example, catchAll: w@one.example}
            MailDomain {domain: two.example}
            Mailbox w@one.example
            MailAlias old@one.example gone@two.example
            MailAlias older@one.example old@one.example
            MailAlias half@one.example gone@two.example w@one.example
            MailAlias typo@one.example whoever@one.example
            ",
        ends: &[
            ("old@one.example", &[]),
            ("OLD+tag@one.example", &[]),
            ("older@one.example", &[]),
            ("half@one.example", &["w@one.example"]),
            ("typo@one.example", &["w@one.example"]),
            ("whoever@one.example", &["w@one.example"]),
            ("gone@two.example", &[]),
        ],
    },
    // A catch-all may lead to an alias, and into another domain.
    Situation {
        objects: "
            MailDomain {domain: one.example, catchAll: list@two.example}
            MailDomain {domain: two.example, catchAll: list@two.example}
            Mailbox u@two.example
            Mailbox v@one.example
            MailAlias list@two.example u@two.example v@one.example x@remote.example
            ",
        ends: &[
            ("v@one.example", &["v@one.example"]),
            ("u@two.example", &["u@two.example"]),
            ("whoever@one.example", &["u@two.example", "v@one.example", "x@remote.example"]),
            ("whoever@two.example", &["u@two.example", "v@one.example", "x@remote.example"]),
            ("list+tag@two.example", &["u@two.example", "v@one.example", "x@remote.example"]),
        ],
    },
    // A catch-all without anybody behind it is none.
    Situation {
        objects: "
            MailDomain {domain: one.example, catchAll: w@one.example}
            MailDomain {domain: two.example, catchAll: w@remote.example}
            Mailbox u@one.example
            ",
        ends: &[
            ("u@one.example", &["u@one.example"]),
            ("w@one.example", &[]),
            ("whoever@one.example", &[]),
            ("whoever@two.example", &[]),
            ("whoever@remote.example", &[]),
        ],
    },
    // Chains, through domains of both classes.
    Situation {
        objects: "
            MailDomain {domain: one.example}
            MailDomain {domain: two.example, class: Alias, catchAll: a@one.example}
            Mailbox u@one.example
            Mailbox v@two.example
            MailAlias a@one.example b@two.example
            MailAlias b@two.example C+tag@one.example x@remote.example
            MailAlias c@one.example u+tag@one.example
            ",
        ends: &[
            ("a@one.example", &["u@one.example", "x@remote.example"]),
            ("b+more@two.example", &["u@one.example", "x@remote.example"]),
            ("c@one.example", &["u@one.example"]),
            // There is no mailbox in a domain of class Alias.
            ("v@two.example", &["u@one.example", "x@remote.example"]),
            ("whoever@two.example", &["u@one.example", "x@remote.example"]),
            ("abuse@two.example", &["hostmaster@elsewhere.example"]),
            ("v@one.example", &[]),
        ],
    },
    // Keep a copy and forward.
    Situation {
        objects: "
            MailDomain {domain: one.example, catchAll: w@one.example}
            Mailbox u@one.example
            Mailbox v@one.example
            Mailbox w@one.example
            MailAlias u@one.example u@one.example x@remote.example
            MailAlias v@one.example v@one.example u+tag@one.example
            ",
        ends: &[
            ("u@one.example", &["u@one.example", "x@remote.example"]),
            ("U+tag@one.example", &["u@one.example", "x@remote.example"]),
            ("v@one.example", &["v@one.example", "u@one.example", "x@remote.example"]),
            ("v+tag@one.example", &["v@one.example", "u@one.example", "x@remote.example"]),
            ("w+tag@one.example", &["w@one.example"]),
        ],
    },
    // Role addresses go where postmaster@ goes, unless somebody has them.
    Situation {
        objects: "
            MailDomain {domain: one.example, postmaster: v@two.example}
            MailDomain {domain: two.example, roleAddresses: [postmaster, abuse, security]}
            Mailbox postmaster@two.example
            Mailbox v@two.example
            Mailbox root@one.example
            MailAlias abuse@two.example v@two.example
            ",
        ends: &[
            ("postmaster@one.example", &["v@two.example"]),
            ("abuse@one.example", &["v@two.example"]),
            ("root@one.example", &["root@one.example"]),
            ("postmaster@two.example", &["postmaster@two.example"]),
            ("abuse@two.example", &["v@two.example"]),
            ("security@two.example", &["postmaster@two.example"]),
            ("root@two.example", &[]),
            ("postmaster@mail.example.test", &["hostmaster@elsewhere.example"]),
            ("v@mail.example.test", &[]),
        ],
    },
    // What looks special in a table or to an old mailer arrives as it was written.
    Situation {
        objects: "
            MailDomain {domain: one.example}
            Mailbox a.b=c~d_e-f@one.example
            MailAlias odd@one.example a.b=c~d_e-f@one.example O'Brien@remote.example _x@remote.example
            MailAlias all@one.example odd@one.example A&b*c?d^e$f#g'h+i=j~k-@remote.example W_{@remote.example
            ",
        ends: &[
            ("a.b=c~d_e-f@one.example", &["a.b=c~d_e-f@one.example"]),
            ("odd@one.example", &["a.b=c~d_e-f@one.example", "O'Brien@remote.example", "_x@remote.example"]),
            (
                "all@one.example",
                &[
                    "a.b=c~d_e-f@one.example",
                    "O'Brien@remote.example",
                    "_x@remote.example",
                    "A&b*c?d^e$f#g'h+i=j~k-@remote.example",
                    "W_{@remote.example",
                ],
            ),
        ],
    },
];

#[test]
fn mail_ends_where_it_is_said_to() {
    let pod = Pod::serving(&Wanted::of(&directory(&Objects::default()), HOST));
    for situation in SITUATIONS {
        let objects = objects(situation.objects);
        let wanted: Ends =
            situation.ends.iter().map(|(address, ends)| (address.to_string(), parsed(ends))).collect();
        let reference = Reference::of(&objects);
        for (address, ends) in &wanted {
            let said = if reference.accepts(address) { reference.ends(address) } else { BTreeSet::new() };
            assert_eq!(said, *ends, "the reference on {address} in {}", situation.objects);
        }
        install(&pod, &Wanted::of(&directory(&objects), HOST));
        let (refused, accepted): (Ends, Ends) = wanted.into_iter().partition(|(_, ends)| ends.is_empty());
        for address in refused.keys() {
            let code = if address.ends_with("@remote.example") { "554 5.7.1" } else { "550 5.1.1" };
            let reply = pod.rcpt(address);
            assert!(reply.starts_with(code), "{address}: {reply} in {}", situation.objects);
        }
        assert_eq!(ends(&pod, &accepted), accepted, "{}", situation.objects);
    }
}

/// Postfix asks for each recipient again and again, while tables change under it.
#[test]
fn a_catch_all_that_comes_and_goes_takes_nobody_s_mail() {
    let with = |lines: &str| {
        let both = "
            MailDomain {domain: two.example}
            Mailbox u@one.example
            Mailbox v@one.example
            Mailbox w@two.example
            MailAlias sales@one.example v@one.example";
        Wanted::of(&directory(&objects(&format!("{lines}{both}"))), HOST)
    };
    let off = with("MailDomain {domain: one.example}");
    let on = with("MailDomain {domain: one.example, catchAll: w@two.example}");
    let pod = Pod::serving(&off);
    let mut to = ["u@one.example", "v+tag@one.example", "sales@one.example", "V@one.example"].iter().cycle();
    let mut sent = 0;
    meanwhile(
        || {
            pod.smtp().send(to.next().expect("a cycle"), "for one of them");
            sent += 1;
        },
        || {
            for _ in 0..15 {
                install(&pod, &on);
                assert!(pod.rcpt("whoever@one.example").starts_with("250 "));
                install(&pod, &off);
                assert!(pod.rcpt("whoever@one.example").starts_with("550 5.1.1"));
            }
        },
    );
    let arrived = wait("all mail", || {
        let arrived = messages(&pod.volumes.vmail());
        (arrived.len() == sent).then_some(arrived)
    });
    println!("{sent} messages were sent while the catch-all came and went");
    assert!(sent > 100, "only {sent} messages");
    for (mailbox, _) in arrived {
        assert!(["u@one.example", "v@one.example"].contains(&mailbox.as_str()), "{mailbox} got mail");
    }
}

fn objects(text: &str) -> Objects {
    let mut objects = Objects::default();
    for (age, line) in text.lines().map(str::trim).filter(|line| !line.is_empty()).enumerate() {
        let id = ObjectId::new("mail", format!("o{age}"));
        let created = age as i64;
        let (kind, rest) = line.split_once(' ').expect(line);
        match kind {
            "MailDomain" => {
                let spec = Ok(serde_yaml::from_str(rest).expect(line));
                objects.domains.insert(id, Object { created, changed: created, deleting: false, spec });
            }
            "Mailbox" => {
                let spec = Ok(Address::own(rest).expect(line));
                objects.mailboxes.insert(id, Object { created, changed: created, deleting: false, spec });
            }
            "MailAlias" => {
                let (address, targets) = rest.split_once(' ').expect(line);
                let targets = targets.split(' ').map(|target| Address::target(target).expect(line)).collect();
                let spec = Ok(AliasSpec { address: Address::own(address).expect(line), targets });
                objects.aliases.insert(id, Object { created, changed: created, deleting: false, spec });
            }
            other => panic!("{other} is no kind"),
        }
    }
    objects
}

fn parsed(ends: &[&str]) -> BTreeSet<End> {
    let elsewhere = |end: &str| end.ends_with("@remote.example") || end.ends_with("@elsewhere.example");
    let end = |end: &&str| {
        if elsewhere(end) { End::Remote(end.to_string()) } else { End::Maildir(end.to_string()) }
    };
    ends.iter().map(end).collect()
}

/// What is accepted at RCPT TO is not deferred after DATA because it leads to too much (virtual_alias_expansion_limit,
/// virtual_alias_recursion_limit): that would hold up the other recipients of the message too.
#[test]
fn what_is_let_in_is_not_too_large_for_postfix() {
    let chain = |name: &str, length: usize| -> String {
        let line = |i| format!("MailAlias {name}{i}@one.example {name}{}@one.example\n", i + 1);
        (0..length).map(line).collect::<String>() + &format!("Mailbox {name}{length}@one.example\n")
    };
    let remote =
        |list: usize| (0..99).map(move |i| format!(" r{i}x{list}@remote.example")).collect::<String>();
    let lists = (0..11).map(|list| format!("MailAlias list{list}@one.example{}\n", remote(list)));
    let some = |count: usize| (0..count).map(|list| format!(" list{list}@one.example")).collect::<String>();
    let copy = |name: &str, count: usize| {
        format!(
            "Mailbox {name}@one.example\nMailAlias {name}@one.example {name}@one.example{}\n",
            some(count)
        )
    };
    let text = "MailDomain {domain: one.example, class: Mailbox}\n".to_owned()
        + &chain("short", 999)
        + &chain("long", 1000)
        + &lists.collect::<String>()
        + &format!("MailAlias nine@one.example{}\nMailAlias eleven@one.example{}\n", some(9), some(11))
        + &copy("four", 4)
        + &copy("five", 5)
        + "MailAlias tagged@one.example four+tag@one.example list9@one.example";
    let directory = directory(&objects(&text));
    let (mut taken, mut refused) = (Vec::new(), Vec::new());
    for name in ["short0", "long0", "nine", "eleven", "four", "five", "tagged"] {
        let address = Address::own(&format!("{name}@one.example")).expect("valid");
        let targets = directory.aliases.get(&address).filter(|_| directory.accepts(&address));
        if targets.is_some() { taken.push(name) } else { refused.push(name) }
    }
    assert_eq!(taken, ["short0", "nine", "four", "tagged"]);
    let pod = Pod::serving(&Wanted::of(&directory, HOST));
    for address in
        taken.iter().flat_map(|name| [format!("{name}@one.example"), format!("{name}+tag@one.example")])
    {
        pod.smtp().send(&address, "large");
    }
}
