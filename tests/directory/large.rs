//! Very many objects in one directory. `VMAIL_OBJECTS` says how many.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::time::Instant;

use proptest::strategy::{Strategy, ValueTree};
use proptest::test_runner::TestRunner;
use vmail_operator::api::MailDomainSpec;
use vmail_operator::api::address::Address;
use vmail_operator::api::conditions::Reason;
use vmail_operator::config::Config;
use vmail_operator::directory::{AliasSpec, Directory, Object, ObjectId, Objects, Refusal, Rules, Verdicts};
use vmail_operator::postfix::{shards, tables::tables};

use crate::reference::{End, Reference};
use crate::sets::{HOST, probes, sets};
use crate::tables::Tables;
use crate::trial::cases;

/// As many sets as have room in one cell, whose tables are limited.
const SETS_IN_A_CELL: usize = 100;

fn wanted() -> usize {
    cases("VMAIL_OBJECTS", 5_000) as usize
}

/// One of many sets, with names that no other has.
struct Among {
    number: usize,
    objects: Objects,
}

impl Among {
    fn cell(&self) -> String {
        format!("c{}", self.number / SETS_IN_A_CELL)
    }

    fn domain(&self, domain: &str) -> String {
        match domain {
            HOST => host(&self.cell()),
            "one.example" | "two.example" | "other.example" => format!("n{}.{domain}", self.number),
            elsewhere => elsewhere.to_owned(),
        }
    }

    fn address(&self, address: &Address) -> Address {
        Address::target(&format!("{}@{}", address.local(), self.domain(address.domain()))).expect("valid")
    }

    /// The name as it is in the set alone.
    fn alone(&self, address: &str) -> String {
        let (local, domain) = address.split_once('@').expect("an address");
        let own = domain.strip_prefix(&format!("n{}.", self.number)).unwrap_or(domain);
        format!("{local}@{}", if own == host(&self.cell()) { HOST } else { own })
    }

    fn join(&self, all: &mut Objects) {
        let id = |id: &ObjectId| ObjectId::new(id.namespace(), format!("n{}-{}", self.number, id.name()));
        let text = |text: &String| self.address(&Address::target(text).expect("valid")).to_string();
        for (name, object) in &self.objects.domains {
            let spec = |spec: &MailDomainSpec| MailDomainSpec {
                domain: self.domain(&spec.domain),
                cell: if spec.cell == "default" { self.cell() } else { spec.cell.clone() },
                postmaster: spec.postmaster.as_ref().map(text),
                catch_all: spec.catch_all.as_ref().map(text),
                ..spec.clone()
            };
            all.domains.insert(id(name), map(object, spec));
        }
        for (name, object) in &self.objects.mailboxes {
            all.mailboxes.insert(id(name), map(object, |address| self.address(address)));
        }
        for (name, object) in &self.objects.aliases {
            let spec = |spec: &AliasSpec| AliasSpec {
                address: self.address(&spec.address),
                targets: spec.targets.iter().map(|target| self.address(target)).collect(),
            };
            all.aliases.insert(id(name), map(object, spec));
        }
    }
}

fn map<S>(object: &Object<S>, change: impl Fn(&S) -> S) -> Object<S> {
    let Object { created, changed, deleting, ref spec } = *object;
    Object { created, changed, deleting, spec: spec.as_ref().map(change).map_err(String::clone) }
}

fn host(cell: &str) -> String {
    format!("{cell}.example.test")
}

/// The configuration of the generated sets, with more cells.
fn config(cells: usize) -> Config {
    let cells: String = (0..cells)
        .map(|n| format!("  c{n}: {{hostname: {}, pod: pod-{n}}}\n", host(&format!("c{n}"))))
        .collect();
    Config::parse(&format!(
        "
name: vmail
postmaster: hostmaster@elsewhere.example
cells:
  default: {{hostname: {HOST}, pod: pod}}
{cells}
tenancy:
  rules:
  - {{namespaces: ['*'], domains: ['*.one.example', '*.two.example']}}
  - {{namespaces: [b], domains: ['*.example']}}
dns: {{powerdns: {{url: 'http://pdns:8081', apiKeyFile: /etc/pdns/api-key}}}}
"
    ))
    .expect("valid")
}

fn size(objects: &Objects) -> usize {
    objects.domains.len() + objects.mailboxes.len() + objects.aliases.len()
}

/// Computes the directory, and says what that took.
fn directory(what: &str, objects: &Objects, config: &Config) -> Directory {
    // Sets the peak back (proc_pid_clear_refs(5)).
    fs::write("/proc/self/clear_refs", "5").expect("writes");
    let before = memory("VmRSS");
    let began = Instant::now();
    let directory =
        Directory::compute(objects, Rules { config, namespace: "mail", records: &BTreeMap::new() });
    println!(
        "{what}: {} objects judged in {:.2?}, with {} MiB at the peak beside the {} MiB of the objects",
        size(objects),
        began.elapsed(),
        (memory("VmHWM") - before) / 1024,
        before / 1024,
    );
    directory
}

/// In KiB (proc_pid_status(5)).
fn memory(field: &str) -> usize {
    let status = fs::read_to_string("/proc/self/status").expect("reads");
    let line = status.lines().find(|line| line.starts_with(field)).expect(field);
    line.split_whitespace().nth(1).and_then(|number| number.parse().ok()).expect(field)
}

fn refused(verdicts: &Verdicts, reason: Reason) -> usize {
    let is = |refusal: &&Refusal| refusal.reason == reason;
    verdicts.values().filter_map(|verdict| verdict.accepted.as_ref().err()).filter(is).count()
}

/// Also the tables are those of each set alone, after another grammar and followed to the end.
#[test]
fn a_set_among_thousands_is_judged_as_if_it_were_alone() {
    let (mut runner, mut all, mut judged) = (TestRunner::default(), Objects::default(), Vec::new());
    while size(&all) < wanted() {
        let objects = sets().new_tree(&mut runner).expect("a set").current();
        let among = Among { number: judged.len(), objects };
        among.join(&mut all);
        judged.push(among);
    }
    let cells = judged.len().div_ceil(SETS_IN_A_CELL);
    let directory = directory("sets side by side", &all, &config(cells));
    for verdicts in [&directory.domain_verdicts, &directory.mailbox_verdicts, &directory.alias_verdicts] {
        assert_eq!(refused(verdicts, Reason::CapacityExceeded), 0);
    }
    let began = Instant::now();
    let (mut lines, mut bytes, mut accepted) = (0, 0, 0);
    for (number, sets) in judged.chunks(SETS_IN_A_CELL).enumerate() {
        let cell = format!("c{number}");
        let tables = Tables::of_cell(&directory, &cell, &host(&cell));
        lines += tables.size().0;
        bytes += tables.size().1;
        for among in sets {
            let reference = Reference::of(&among.objects);
            for alone in probes() {
                let address = among.address(&alone);
                let said = reference.accepts(&alone.to_string());
                assert_eq!(
                    directory.accepts(&address),
                    said,
                    "{address} among many, {alone} of {:#?}",
                    among.objects
                );
                if !said {
                    continue;
                }
                accepted += 1;
                let ends = tables.ends(&address.to_string(), 0).into_iter();
                let ends: BTreeSet<End> = ends
                    .map(|end| match end.unwrap_or_else(|| panic!("mail for {address} bounces")) {
                        End::Maildir(address) => End::Maildir(among.alone(&address)),
                        End::Remote(address) => End::Remote(among.alone(&address)),
                    })
                    .collect();
                assert_eq!(ends, reference.ends(&alone.to_string()), "{address} of {:#?}", among.objects);
            }
        }
    }
    println!(
        "sets side by side: {} sets in {cells} cells, {lines} lines of tables with {bytes} bytes; \
         {} addresses asked, {accepted} accepted and followed to the end, in {:.1?}",
        judged.len(),
        judged.len() * probes().len(),
        began.elapsed()
    );
}

/// Objects of the namespace that may claim any domain, each older than the next.
#[derive(Default)]
struct Shapes(Objects);

impl Shapes {
    fn next<S>(&self, spec: S) -> (ObjectId, Object<S>) {
        let age = size(&self.0);
        let created = age as i64;
        let id = ObjectId::new("mail", format!("o{age}"));
        (id, Object { created, changed: created, deleting: false, spec: Ok(spec) })
    }

    fn domain(&mut self, domain: &str, cell: &str, more: &str) {
        let spec = format!("{{domain: {domain}, cell: {cell}{more}}}");
        let (id, object) = self.next(serde_yaml::from_str(&spec).expect(&spec));
        self.0.domains.insert(id, object);
    }

    fn mailbox(&mut self, address: &str) {
        let (id, object) = self.next(Address::own(address).expect(address));
        self.0.mailboxes.insert(id, object);
    }

    fn alias(&mut self, address: &str, targets: &[&str]) {
        let targets = targets.iter().map(|target| Address::target(target).expect(target)).collect();
        let (id, object) = self.next(AliasSpec { address: Address::own(address).expect(address), targets });
        self.0.aliases.insert(id, object);
    }
}

/// What is slow where somebody counts the same thing again and again.
#[test]
fn shapes_that_could_be_slow() {
    let cells = wanted() / 2_500 + 1;
    let mut set = Shapes::default();
    set.domain("hub.example", "default", ", catchAll: u@hub.example");
    set.mailbox("u@hub.example");
    // Oldest first, so that each lengthens all before it.
    for step in 0..999 {
        set.alias(&format!("chain{step}@hub.example"), &[&format!("chain{}@hub.example", step + 1)]);
    }
    set.mailbox("chain999@hub.example");
    for n in 0..cells {
        set.domain(&format!("d{n}.example"), &format!("c{n}"), ", catchAll: all@hub.example");
    }
    let rest = (wanted() - size(&set.0)) / 4;
    for n in 0..rest {
        let domain = format!("d{}.example", n % cells);
        set.mailbox(&format!("u{n}@{domain}"));
        set.alias(&format!("hub{n}@{domain}"), &["all@hub.example"]);
        set.alias(&format!("there{n}@{domain}"), &[&format!("back{n}@{domain}")]);
        set.alias(&format!("back{n}@{domain}"), &[&format!("there{n}@{domain}"), &format!("u{n}@{domain}")]);
    }
    let targets: Vec<String> = (0..99).map(|n| format!("x{n}@remote.example")).collect();
    let targets: Vec<&str> = targets.iter().map(String::as_str).chain(["u@hub.example"]).collect();
    set.alias("all@hub.example", &targets);
    let directory = directory("shapes that could be slow", &set.0, &config(cells));
    let says = |address: &str| directory.accepts(&Address::own(address).expect("valid"));
    assert!(says("chain0@hub.example") && says("hub0@d0.example"));
    assert_eq!(refused(&directory.alias_verdicts, Reason::AliasLoop), rest);
    for n in 0..cells {
        let cell = format!("c{n}");
        Tables::of_cell(&directory, &cell, &host(&cell));
    }
    assert_eq!(Tables::of(&directory).ends("chain900@hub.example", 0).len(), 1);
}

/// One cell has room for all, in shards that are the same tables when they are put together.
#[test]
fn a_large_cell_travels_in_shards() {
    let mut set = Shapes::default();
    set.domain("one.example", "default", ", catchAll: u0@one.example");
    for n in 0..wanted() / 2 {
        set.mailbox(&format!("u{n}@one.example"));
        set.alias(&format!("a{n}@one.example"), &["x@remote.example", &format!("u{n}@one.example")]);
    }
    let directory = directory("one cell", &set.0, &config(1));
    for verdicts in [&directory.mailbox_verdicts, &directory.alias_verdicts] {
        assert_eq!(refused(verdicts, Reason::CapacityExceeded), 0);
    }
    let mut tables = tables(&directory, "default", HOST, |_| true, &BTreeSet::new(), |_| true);
    let began = Instant::now();
    let packed = shards::pack("default", tables.clone(), true, None).expect("there is room");
    let bytes = packed.shards.values().map(|shard| shard.bytes.len());
    println!(
        "one cell: {} lines with {} bytes are packed into {} shards, the largest with {} bytes, in {:.1?}",
        tables.values().map(|text| text.lines().count()).sum::<usize>(),
        tables.values().map(String::len).sum::<usize>(),
        packed.shards.len(),
        bytes.max().unwrap_or_default(),
        began.elapsed(),
    );
    assert_eq!(packed.shards.len(), shards::SHARDS);
    let parts = packed.shards.values().map(|shard| shards::unpack(&shard.bytes).expect("a shard").1);
    for text in tables.values_mut() {
        let mut lines: Vec<&str> = text.lines().collect();
        lines.sort_unstable();
        *text = lines.iter().map(|line| format!("{line}\n")).collect();
    }
    assert!(shards::join(parts) == tables);
    assert!(directory.accepts(&Address::own("u0@one.example").expect("valid")));
}
