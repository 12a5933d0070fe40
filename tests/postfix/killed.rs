//! The agent killed in the middle of what it does with mail on disk: kill -9 at each of its steps on the volume, by
//! strace(1), and a new pod after it.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU32, AtomicUsize, Ordering};
use std::time::Instant;

use crate::pod::{Pod, Volumes, wait};
use crate::revision::Wanted;

/// What changes the volume. The rest of the agent's files are elsewhere.
const STEPS: &str = "renameat,mkdirat,unlinkat,fsync";

/// Where something lies in the trash at the beginning.
const OLD: &str = ".trash/20200101T000000Z";

/// The directories of the volume in which steps are seen; strace(1) knows no patterns.
const WATCHED: [&str; 10] = [
    "",
    ".vmail",
    ".vmail/ledger.next",
    ".archive",
    ".trash",
    "example.org",
    "example.com",
    OLD,
    ".trash/20200101T000000Z/example.org",
    ".trash/20200101T000000Z/example.org/old",
];

const ARGUMENTS: [&str; 2] = ["--deletion-hold-seconds=0", "--trash-seconds=0"];

const BEFORE: &str = "example.org mail Retain\nexample.com mail Archive\n\
    you@example.org mail Retain 1\nkept@example.org mail Retain 2\nput@example.org mail Archive 3\n\
    gone@example.org mail Delete 4\nmine@example.org mail Delete 5\n";

/// One message for each, as path and content.
const MAIL: [&str; 6] = [
    "example.org/you",
    "example.org/kept",
    "example.org/put",
    "example.org/gone",
    "example.org/mine",
    "example.com/stray",
];

fn before() -> Wanted {
    let addresses = ["kept", "put", "gone", "mine"].map(|name| format!("{name}@example.org"));
    let wanted = Wanted::one("example.org").bare_domain("example.com");
    addresses.iter().fold(wanted, |wanted, address| wanted.mailbox(address)).custody(BEFORE)
}

/// Volumes as a pod leaves them that had [`before`], and mail.
fn filled() -> Volumes {
    let pod = Pod::with(&before());
    pod.wait_for_revision(&before());
    let (status, volumes) = pod.terminate();
    assert!(status.success(), "{status}");
    for place in MAIL {
        let new = volumes.vmail().join(place).join("new");
        fs::create_dir_all(&new).unwrap();
        fs::write(new.join("1"), place).unwrap();
    }
    volumes
}

/// Every message on the volume: what it says, and where it is, without the time in the path.
fn mail(vmail: &Path) -> BTreeMap<String, Vec<String>> {
    let mut found: BTreeMap<String, Vec<String>> = BTreeMap::new();
    let mut look = vec![vmail.to_owned()];
    while let Some(directory) = look.pop() {
        // The agent may be moving things meanwhile.
        for path in fs::read_dir(&directory).into_iter().flatten().flatten().map(|entry| entry.path()) {
            match fs::read_to_string(&path) {
                Ok(text) if MAIL.contains(&text.as_str()) => {
                    let parts = path.strip_prefix(vmail).unwrap().iter().map(|part| part.to_string_lossy());
                    let timeless: Vec<_> = parts.filter(|part| !part.starts_with("20")).collect();
                    found.entry(text).or_default().push(timeless.join("/"));
                }
                Ok(_) => {}
                Err(_) => look.push(path),
            }
        }
    }
    found
}

fn ledger(vmail: &Path) -> serde_json::Value {
    serde_json::from_str(&fs::read_to_string(vmail.join(".vmail/ledger.json")).unwrap()).unwrap()
}

/// What is true at every moment: nothing is there twice, nothing is lost, and what is another namespace's by the ledger
/// is not there for it.
fn nothing_is_lost(vmail: &Path, may_go: &[&str]) {
    let mail = mail(vmail);
    for place in MAIL {
        let found = mail.get(place).cloned().unwrap_or_default();
        assert!(found.len() == 1 || found.is_empty() && may_go.contains(&place), "{place}: {found:?}");
        let (name, known) = (format!("{place}/new/1"), |path: &String| {
            path.trim_start_matches(".archive/").trim_start_matches(".trash/") == format!("{place}/new/1")
        });
        // What is erased is taken apart first.
        assert!(found.iter().all(known) || may_go.contains(&place), "{name}: {found:?}");
    }
    let owner = &ledger(vmail)["mailboxes"]["example.org/mine"]["namespace"];
    let in_place = vmail.join("example.org/mine/new/1").exists();
    assert!(!in_place || owner == "mail", "{owner} would get another's mail");
}

/// A way from [`before`] to `after`, and what is there at its end.
struct Way<'a> {
    filled: Volumes,
    after: Wanted,
    may_go: &'a [&'a str],
    end: &'a [(&'a str, &'a [&'a str])],
    noted: fn(&serde_json::Value) -> bool,
}

impl Way<'_> {
    fn ended(&self, vmail: &Path) -> Option<()> {
        let mail = mail(vmail);
        let trash = fs::read_dir(vmail.join(".trash")).map(Iterator::count).unwrap_or_default();
        let there = |(place, paths): &(&str, &[&str])| {
            mail.get(*place).cloned().unwrap_or_default().iter().eq(paths.iter())
        };
        (trash == 0 && self.end.iter().all(there) && (self.noted)(&ledger(vmail))).then_some(())
    }

    /// The agent goes it under strace(1) with these arguments, until it is killed or has gone it.
    fn gone_under(&self, inject: &str) -> Volumes {
        let volumes = self.filled.copy_with_mounts();
        self.after.mount(&volumes.revision());
        let vmail = volumes.seen_from_the_pod("var/vmail");
        let mut strace =
            format!("strace -f -qq -y -e trace={STEPS} {inject} -o {}", volumes.steps().display());
        for name in WATCHED {
            strace.push_str(&format!(" -P {}", vmail.join(name).display().to_string().trim_end_matches('/')));
        }
        let pod = Pod::start_under(&strace, volumes, &ARGUMENTS);
        wait("the agent's end, or that of its work", || {
            if pod.volumes.saw_a_kill() { Some(()) } else { self.ended(&pod.volumes.vmail()) }
        });
        pod.crash()
    }

    /// Kills the agent where it makes this system call for the n-th time, and starts another. The call, if it came so
    /// far.
    fn killed_at(&self, (call, n): &(String, usize)) -> Option<String> {
        let volumes = self.gone_under(&format!("-e inject={call}:signal=KILL:when={n}"));
        nothing_is_lost(&volumes.vmail(), self.may_go);
        let step = volumes.saw_a_kill().then(|| volumes.last_step())?;
        let pod = Pod::start(volumes, &ARGUMENTS);
        pod.wait_for_revision(&self.after);
        wait(&format!("the end after {step}"), || self.ended(&pod.volumes.vmail()));
        pod.wait_for_report("the end", |report| {
            let kept = &report.kept;
            let clear = kept.trouble.is_empty() && kept.brake.is_empty() && kept.held_back.is_empty();
            clear && (kept.in_trash, kept.waiting) == (0, 0)
        });
        nothing_is_lost(&pod.volumes.vmail(), self.may_go);
        Some(step)
    }

    /// Goes it undisturbed once, then is killed at each of the steps that were seen (at a few of them without
    /// `VMAIL_FAULTS=all`).
    fn go(self) {
        let all = std::env::var("VMAIL_FAULTS").is_ok_and(|faults| faults == "all");
        let steps = self.gone_under("").steps_of_each_thread();
        let each = if all { 1 } else { steps.len().div_ceil(3) };
        let chosen: Vec<_> = steps.iter().skip(each / 2).step_by(each).collect();
        let next = AtomicUsize::new(0);
        let died = Mutex::new(Vec::new());
        std::thread::scope(|scope| {
            for _ in 0..3 {
                scope.spawn(|| {
                    while let Some(step) = chosen.get(next.fetch_add(1, Ordering::Relaxed)) {
                        let at = self.killed_at(step);
                        died.lock().unwrap().extend(at);
                    }
                });
            }
        });
        let died = died.into_inner().unwrap();
        println!("killed at {} of {} steps:\n  {}", died.len(), steps.len(), died.join("\n  "));
        assert!(2 * died.len() > chosen.len(), "{chosen:?}: {died:?}");
    }
}

const KEPT: (&str, &[&str]) = ("example.org/kept", &["example.org/kept/new/1"]);
const YOURS: (&str, &[&str]) = ("example.org/you", &["example.org/you/new/1"]);

#[test]
fn at_each_step_of_a_change_of_hands() {
    let after = before().custody(&BEFORE.replace("mine@example.org mail", "mine@example.org shop"));
    let mine: (&str, &[&str]) = ("example.org/mine", &[".archive/example.org/mine/new/1"]);
    let end = [YOURS, KEPT, mine];
    let noted = |ledger: &serde_json::Value| ledger["mailboxes"]["example.org/mine"]["namespace"] == "shop";
    Way { filled: filled(), after, may_go: &[], end: &end, noted }.go();
}

#[test]
fn at_each_step_of_following_policies() {
    let mut after = before()
        .custody("example.org mail Retain\nyou@example.org mail Retain 1\nmine@example.org mail Delete 5\n")
        .without("virtual_mailbox_domains", "example.com ")
        .without("domains", "example.com ");
    for name in ["kept", "put", "gone"] {
        after = after.without("virtual_mailbox_maps", &format!("{name}@"));
    }
    let end: [(&str, &[&str]); 5] = [
        YOURS,
        KEPT,
        ("example.org/put", &[".archive/example.org/put/new/1"]),
        ("example.org/gone", &[]),
        ("example.com/stray", &[".archive/example.com/stray/new/1"]),
    ];
    let noted = |ledger: &serde_json::Value| {
        let is = |kind: &str, name: &str| ledger[kind].get(name).is_some();
        let left = is("mailboxes", "example.org/put") || is("mailboxes", "example.org/gone");
        !left && !is("domains", "example.com") && is("mailboxes", "example.org/kept")
    };
    Way { filled: filled(), after, may_go: &["example.org/gone"], end: &end, noted }.go();
}

#[test]
fn at_each_step_of_erasing() {
    let volumes = filled();
    let old = volumes.vmail().join(OLD).join("example.org/old");
    fs::create_dir_all(old.join("new")).unwrap();
    for name in ["new/1", "new/2", "3"] {
        fs::write(old.join(name), "old").unwrap();
    }
    for directory in [".trash", OLD, &format!("{OLD}/example.org")] {
        crate::pod::set_mode(&volumes.vmail().join(directory), 0o700);
    }
    Way { filled: volumes, after: before(), may_go: &[], end: &[YOURS, KEPT], noted: |_| true }.go();
}

/// The agent is killed at moments from the first look at a new revision until it is saved. Without anything mounted the
/// next pod serves one of the two, whole.
#[test]
fn at_any_moment_of_an_installation() {
    let all = std::env::var("VMAIL_FAULTS").is_ok_and(|faults| faults == "all");
    let (old, new) = (Wanted::one("one.example"), Wanted::one("two.example"));
    let saved = |volumes: &Volumes| {
        fs::read_to_string(volumes.spool().join("last-good/current/index.json")).unwrap_or_default()
    };
    let serving = || {
        let pod = Pod::serving(&old);
        wait("the saved revision", || saved(&pod.volumes).contains(&old.revision()).then_some(()));
        pod
    };
    let undisturbed = serving();
    let began = Instant::now();
    new.mount(&undisturbed.volumes.revision());
    wait("the saved revision", || saved(&undisturbed.volumes).contains(&new.revision()).then_some(()));
    let (took, moments) = (began.elapsed(), if all { 40 } else { 4 });
    drop(undisturbed);

    let next = AtomicU32::new(0);
    let found = Mutex::new(BTreeMap::new());
    let try_one = |moment: u32| {
        let pod = serving();
        new.mount(&pod.volumes.revision());
        std::thread::sleep(took * moment / moments);
        let volumes = pod.crash();
        for entry in fs::read_dir(volumes.revision()).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() && !path.is_symlink() {
                fs::remove_dir_all(path)
            } else {
                fs::remove_file(path)
            }
            .unwrap();
        }
        let pod = Pod::start(volumes, &[]);
        let report = pod.wait_for_report("a revision", |report| report.revision.is_some());
        let is_new = report.revision.as_deref() == Some(new.revision().as_str());
        assert!(is_new || report.revision == Some(old.revision()), "after {moment}: {report:?}");
        let (ours, other) = if is_new { ("two", "one") } else { ("one", "two") };
        assert!(pod.rcpt(&format!("you@{ours}.example")).starts_with("250"), "after {moment}");
        assert!(pod.rcpt(&format!("you@{other}.example")).starts_with("554"), "after {moment}");
        *found.lock().unwrap().entry(ours).or_insert(0) += 1;
        new.mount(&pod.volumes.revision());
        pod.wait_for_revision(&new);
    };
    std::thread::scope(|scope| {
        for _ in 0..2 {
            scope.spawn(|| {
                loop {
                    match next.fetch_add(1, Ordering::Relaxed) {
                        moment if moment <= moments => try_one(moment),
                        _ => return,
                    }
                }
            });
        }
    });
    println!("killed within {took:?}, and served then: {:?}", found.into_inner().unwrap());
}
