//! `render`.

use std::collections::BTreeMap;
use std::path::Path;

use k8s_openapi::api::core::v1::ConfigMap;
use serde::Deserialize;
use vmail_operator::revision::Index;

use crate::program::{CONFIG, Ran, directory, manifest, run};

/// Every file below a directory, by its path in it.
fn files(directory: &Path) -> BTreeMap<String, String> {
    let mut found = BTreeMap::new();
    let mut open = vec![directory.to_owned()];
    while let Some(next) = open.pop() {
        for entry in std::fs::read_dir(&next).expect("reads") {
            let path = entry.expect("reads").path();
            if path.is_dir() {
                open.push(path);
            } else {
                let name = path.strip_prefix(directory).expect("below").display().to_string();
                found.insert(name, std::fs::read_to_string(&path).expect("text"));
            }
        }
    }
    found
}

fn render_examples(out: &Path) -> Ran {
    let repository = Path::new(env!("CARGO_MANIFEST_DIR"));
    let out = out.to_str().expect("UTF-8");
    run(repository, &["render", "-f", "examples", "-n", "mail", "--out", out])
}

#[test]
fn the_examples_become_the_files_of_a_revision() {
    let parent = directory(&[]);
    let out = parent.path().join("not/there/yet");
    let ran = render_examples(&out);
    assert_eq!((ran.code, ran.out.as_str()), (0, ""), "{}", ran.err);
    let first = files(&out);
    let names: Vec<&str> = first.keys().map(String::as_str).collect();
    assert_eq!(
        names,
        [
            "configmaps.yaml",
            "main.cf",
            "master.cf",
            "tables/check_recipient_access",
            "tables/transport_maps",
            "tables/virtual_alias_domains",
            "tables/virtual_alias_maps",
            "tables/virtual_mailbox_domains",
            "tables/virtual_mailbox_maps",
        ]
    );
    assert_eq!(
        first["tables/virtual_mailbox_maps"],
        "info@example.net example.net/info/\nadmin@example.org example.org/admin/\n\
         postmaster@example.org example.org/postmaster/\nyou@example.org example.org/you/\n"
    );
    assert!(
        first["tables/virtual_alias_maps"]
            .contains("\nadmin@example.org admin@example.org, you@example.org\n")
    );
    assert!(first["main.cf"].contains("\nmyhostname = mail.invalid\n"));
    // postmap(1): a key, white space and a value in each line.
    for (name, table) in first.iter().filter(|(name, _)| name.starts_with("tables/")) {
        for line in table.lines() {
            let (key, value) = line.split_once(' ').unwrap_or_else(|| panic!("{name}: {line:?}"));
            assert!(!key.is_empty() && !key.starts_with('#') && !value.trim().is_empty(), "{name}: {line:?}");
        }
        assert!(table.is_empty() || table.ends_with('\n'), "{name}");
    }

    let ran = render_examples(&out);
    assert_eq!(ran.code, 0, "{}", ran.err);
    assert!(files(&out) == first, "the same manifests give the same bytes");
}

/// What the agent would be given is what stands in the files.
#[test]
fn the_config_maps_hold_the_revision() {
    let out = directory(&[("config.yaml", CONFIG)]);
    let at = |name: &str| out.path().join(name).to_str().expect("UTF-8").to_owned();
    let repository = Path::new(env!("CARGO_MANIFEST_DIR"));
    let (config, rendered) = (at("config.yaml"), at("rendered"));
    let args = ["render", "-f", "examples", "-n", "mail", "--config", &config, "--out", &rendered];
    let ran = run(repository, &args);
    assert_eq!((ran.code, ran.err.as_str()), (0, ""));

    let found = files(Path::new(&rendered));
    let maps: Vec<ConfigMap> = serde_yaml::Deserializer::from_str(&found["configmaps.yaml"])
        .map(|document| ConfigMap::deserialize(document).expect("a ConfigMap"))
        .collect();
    let names: Vec<_> = maps.iter().filter_map(|map| map.metadata.name.as_deref()).collect();
    assert_eq!(names, ["vmail-default-tables", "vmail-default-index"]);
    let mut data: BTreeMap<String, String> = maps.into_iter().filter_map(|map| map.data).flatten().collect();
    let index: Index = serde_json::from_str(&data.remove("index.json").expect("an index")).expect("an index");
    assert_eq!(index, Index::new("default", &data, BTreeMap::new()), "the index lists just what is there");
    for (name, content) in found.iter().filter(|(name, _)| *name != "configmaps.yaml") {
        assert_eq!(data.get(name.trim_start_matches("tables/")), Some(content), "{name}");
    }
    assert!(found["main.cf"].contains("\nmyhostname = mail.example.test\n"));
    assert!(found["tables/virtual_alias_maps"].contains("abuse@example.net admin@example.com\n"));
}

#[test]
fn a_cell_has_its_own_tables() {
    let text = manifest("MailDomain", "a", "domain: a.example")
        + &manifest("MailDomain", "b", "domain: b.example, cell: other");
    let files_in = directory(&[("mail.yaml", &text), ("config.yaml", CONFIG)]);
    let domains = |args: &[&str]| {
        let ran = run(
            files_in.path(),
            &[&["render", "-f", "mail.yaml", "-n", "mail", "--out", "out"], args].concat(),
        );
        let table = std::fs::read_to_string(files_in.path().join("out/tables/virtual_mailbox_domains"));
        (ran.code, table.unwrap_or_default(), ran.err)
    };
    assert_eq!(domains(&[]).1, "a.example OK\n");
    assert_eq!(domains(&["--cell", "other"]).1, "b.example OK\n");
    assert_eq!(domains(&["--cell", "other", "--config", "config.yaml"]).1, "b.example OK\n");
    let (code, _, err) = domains(&["--cell", "third", "--config", "config.yaml"]);
    assert_eq!(code, 2);
    assert!(err.contains("--cell: there is no cell third; cells are: default, other"), "{err}");
}

#[test]
fn what_is_not_accepted_is_told_and_the_rest_rendered() {
    let text =
        manifest("MailDomain", "a", "domain: a.example") + &manifest("MailDomain", "b", "domain: a.example");
    let files_in = directory(&[("mail.yaml", &text), ("bad.yaml", "a: [1")]);
    let ran = run(files_in.path(), &["render", "-f", "mail.yaml", "--out", "out"]);
    assert_eq!((ran.code, ran.out.as_str()), (1, ""));
    let sentence =
        "vmail-operator: MailDomain default/b at mail.yaml:7 (document 2): a.example is already served";
    assert!(ran.err.contains(sentence), "{}", ran.err);
    assert_eq!(files(&files_in.path().join("out"))["tables/virtual_mailbox_domains"], "a.example OK\n");
    assert_eq!(run(files_in.path(), &["render", "-f", "mail.yaml", "bad.yaml", "--out", "out"]).code, 2);
}

#[test]
fn only_an_earlier_render_is_overwritten() {
    let out = directory(&[("main.cf", "mydestination = example.org\n"), ("README.md", "mine")]);
    let ran = render_examples(out.path());
    assert_eq!(ran.code, 2);
    assert!(ran.err.contains("main.cf is there and not of an earlier render"), "{}", ran.err);
    assert_eq!(files(out.path()).len(), 2, "nothing was written");
    assert_eq!(files(out.path())["main.cf"], "mydestination = example.org\n");

    let out = directory(&[("tables/virtual_old_maps", "a b\n")]);
    assert_eq!(render_examples(out.path()).code, 2);
    assert_eq!(files(out.path()).len(), 1);

    let out = directory(&[("README.md", "mine")]);
    assert_eq!(render_examples(out.path()).code, 0);
    let before = files(out.path());
    for (name, content) in
        [("tables/virtual_old_maps", "a b\n"), ("tables/virtual_alias_maps.cdb", "made by postmap")]
    {
        std::fs::write(out.path().join(name), content).expect("writes");
    }
    std::fs::write(out.path().join("tables/virtual_alias_maps"), "edited\n").expect("writes");
    assert_eq!(render_examples(out.path()).code, 0);
    let mut after = files(out.path());
    assert_eq!(after.remove("tables/virtual_alias_maps.cdb").as_deref(), Some("made by postmap"));
    assert_eq!(after.keys().collect::<Vec<_>>(), before.keys().collect::<Vec<_>>());
    assert!(after == before, "what was edited is as rendered");
}
