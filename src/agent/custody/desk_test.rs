//! The desk alone, on a real directory: what is moved, and a crash before each step on disk.

use std::fs;
use std::path::PathBuf;

use super::super::super::volume::faults;
use super::*;

const BEFORE: &str = "a.b mail Archive\nkept@a.b mail Retain 1\nput@a.b mail Archive 2\ngone@a.b mail Delete 3\nother@a.b mail Retain 4\nc.d mail Delete\n";
/// `other` belongs to somebody else; the others and `c.d` are gone.
const AFTER: &str = "a.b mail Archive\nother@a.b shop Retain 5\n";

fn custody(text: &str) -> Custody {
    text.parse().unwrap()
}

fn at(seconds: i64) -> Timestamp {
    Timestamp::from_second(1_700_000_000 + seconds).unwrap()
}

/// A volume where each Maildir holds one message, and one that no Mailbox ever had.
fn filled() -> (tempfile::TempDir, Desk) {
    let directory = tempfile::tempdir().unwrap();
    let mut desk = Desk::new(directory.path());
    desk.take_over(&custody(BEFORE), &BTreeSet::new(), at(0)).unwrap();
    for place in ["a.b/kept", "a.b/put", "a.b/gone", "a.b/other", "c.d/stray"] {
        let new = directory.path().join(place).join("new");
        fs::create_dir_all(&new).unwrap();
        fs::write(new.join("1"), place).unwrap();
    }
    (directory, desk)
}

/// Everything that a revision like [`AFTER`] leads to, as often as it takes.
fn all(path: &Path, seconds: i64) -> Result<(), String> {
    let mut desk = Desk::new(path);
    desk.take_over(&custody(AFTER), &BTreeSet::new(), at(seconds))?;
    let (left, _) = desk.left(&custody(AFTER), &BTreeSet::new())?;
    desk.follow(&left, &custody(AFTER), at(seconds))?;
    // A slow disk takes more than one turn's budget.
    while desk.erase(Duration::ZERO, at(seconds + 10))?.1 > 0 {}
    Ok(())
}

/// Every file below the volume, without the time in its path.
fn files(directory: &Path) -> Vec<String> {
    let mut found = Vec::new();
    let mut look: Vec<PathBuf> = vec![directory.to_owned()];
    while let Some(path) = look.pop() {
        let entries: Vec<PathBuf> = fs::read_dir(&path).unwrap().map(|entry| entry.unwrap().path()).collect();
        if entries.is_empty() {
            found.push(path);
            continue;
        }
        for entry in entries {
            if entry.is_dir() { look.push(entry) } else { found.push(entry) }
        }
    }
    let relative = |path: PathBuf| {
        let parts = path.strip_prefix(directory).unwrap().iter().map(|part| part.to_string_lossy());
        let timeless = parts.filter(|part| !(part.starts_with("2023") && part.ends_with('Z')));
        timeless.collect::<Vec<_>>().join("/")
    };
    let mut found: Vec<String> = found.into_iter().map(relative).collect();
    found.sort();
    found
}

const END: [&str; 5] =
    [".archive/a.b/other/new/1", ".archive/a.b/put/new/1", ".trash", ".vmail/ledger.json", "a.b/kept/new/1"];

#[test]
fn each_goes_where_its_last_owner_said() {
    let (directory, mut desk) = filled();
    desk.take_over(&custody(AFTER), &BTreeSet::new(), at(1)).unwrap();
    assert!(files(directory.path()).contains(&".archive/a.b/other/new/1".to_owned()), "before anything else");
    all(directory.path(), 2).unwrap();
    assert_eq!(files(directory.path()), END);
}

/// The plug is pulled before each step, and everything begins again: the end is the same.
#[test]
fn a_crash_at_any_step_changes_nothing_in_the_end() {
    let (directory, _) = filled();
    faults::allow(None);
    all(directory.path(), 1).unwrap();
    let steps = faults::taken();
    assert_eq!(files(directory.path()), END);
    for crash in 0..steps {
        let (directory, _) = filled();
        faults::allow(Some(crash));
        assert!(all(directory.path(), 1).is_err(), "step {crash}");
        // Nothing of the new owner is there while something of the old one is.
        faults::allow(None);
        let text = fs::read_to_string(directory.path().join(".vmail/ledger.json")).unwrap();
        if text.contains("shop") {
            assert!(!directory.path().join("a.b/other").exists(), "step {crash}: {text}");
        }
        all(directory.path(), 100).unwrap();
        assert_eq!(files(directory.path()), END, "step {crash}");
        assert_eq!(all(directory.path(), 200), Ok(()));
        assert_eq!(files(directory.path()), END, "step {crash}, and once more");
    }
    eprintln!("crashed at each of {steps} steps on disk");
    assert!(steps > 20);
}

#[test]
fn who_waits_keeps_the_owner_of_before() {
    let (directory, mut desk) = filled();
    let waiting: BTreeSet<Place> = [Place { domain: "a.b".into(), local: "other".into() }].into();
    let done = desk.take_over(&custody(AFTER), &waiting, at(1)).unwrap();
    assert_eq!((done.held, done.archived), (waiting.clone(), 0));
    assert_eq!(desk.changed_hands(&custody(AFTER)).unwrap(), waiting);
    assert!(directory.path().join("a.b/other").exists());
}

#[test]
fn a_maildir_that_cannot_be_moved_holds_back_its_new_owner_alone() {
    let (directory, mut desk) = filled();
    let text =
        "other@a.b shop Retain 5\nput@a.b shop Retain 6\nstray@c.d shop Retain 7\nx@e.f mail Retain 8\n";
    desk.take_over(&custody("stray@c.d mail Retain 9\n"), &BTreeSet::new(), at(0)).unwrap();
    fs::rename(directory.path().join("c.d"), directory.path().join("elsewhere")).unwrap();
    std::os::unix::fs::symlink(directory.path().join("elsewhere"), directory.path().join("c.d")).unwrap();
    let done = desk.take_over(&custody(text), &BTreeSet::new(), at(1)).unwrap();
    assert_eq!(done.held, [Place { domain: "c.d".into(), local: "stray".into() }].into());
    assert_eq!(done.archived, 2);
    assert!(directory.path().join("elsewhere/stray/new/1").exists());
}

/// What a domain's former owner left, and no Mailbox ever had, is not for the next one.
#[test]
fn a_domain_that_changes_hands_is_empty_of_what_nobody_knows() {
    let (directory, mut desk) = filled();
    let text = "c.d shop Retain\nstray@c.d shop Retain 7\n";
    assert_eq!(desk.take_over(&custody(text), &BTreeSet::new(), at(1)).unwrap().archived, 1);
    assert!(files(directory.path()).contains(&".archive/c.d/stray/new/1".to_owned()));
}

#[test]
fn an_unreadable_ledger_moves_nothing_and_is_not_replaced() {
    let (directory, _) = filled();
    let ledger = directory.path().join(".vmail/ledger.json");
    fs::write(&ledger, "{\"format\":99}").unwrap();
    let before = files(directory.path());
    assert!(all(directory.path(), 1).unwrap_err().contains("cannot be read"));
    assert_eq!(
        (files(directory.path()), fs::read_to_string(&ledger).unwrap()),
        (before, "{\"format\":99}".into())
    );
}

/// What `Retain` left is remembered for as long as it is there, and no longer.
#[test]
fn the_ledger_forgets_what_has_neither_an_owner_nor_mail() {
    let (directory, mut desk) = filled();
    let now = custody("other@a.b mail Retain 4\na.b/ claimed\n");
    let before = "e.f mail Retain\nnever@a.b mail Retain 6\nclaimed@a.b mail Retain 7\nslow@e.f mail Retain 8\ndrains@g.h mail Retain 9\n";
    desk.take_over(&custody(before), &BTreeSet::new(), at(0)).unwrap();
    let empty = desk.retained_nothing(&now, &["g.h".to_owned()].into()).unwrap();
    let named: Vec<String> = empty.iter().map(Left::to_string).collect();
    assert_eq!(named, ["a.b/never", "e.f/slow", "e.f/"]);
    // Mail that came meanwhile is its owner's.
    fs::create_dir_all(directory.path().join("e.f/slow/new")).unwrap();
    desk.forget_nothing(&empty).unwrap();
    let (_, ledger) = desk.opened().unwrap();
    let places: Vec<String> = ledger.mailboxes.keys().map(Place::to_string).collect();
    assert_eq!(
        places,
        ["a.b/claimed", "a.b/gone", "a.b/kept", "a.b/other", "a.b/put", "e.f/slow", "g.h/drains"]
    );
    assert!(ledger.domains.contains_key("e.f"));
    let written = fs::read_to_string(directory.path().join(".vmail/ledger.json")).unwrap();
    assert_eq!(Ledger::read(&written).as_ref(), Ok(&*ledger));
}
