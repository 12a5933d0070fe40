//! The agent with a real Postfix, in a stand-in for its pod. Needs root and the image's root file system.

mod mail;
mod pod;
#[path = "../directory/reference.rs"]
#[allow(dead_code, reason = "verdicts are judged in tests/directory")]
mod reference;
mod revision;
#[path = "../directory/sets.rs"]
mod sets;
#[path = "../directory/trial.rs"]
mod trial;

mod cells;
mod changes;
mod characters;
mod closing;
mod custody;
mod delivery;
mod floods;
mod generated;
mod import;
mod install;
mod killed;
mod leaving;
mod metrics;
mod network;
mod relay;
mod shards;
mod smuggling;
mod starttls;
mod strangers;
