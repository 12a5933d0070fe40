//! The agent with a real Postfix, in a stand-in for its pod. Needs root and the image's root file system.

mod pod;
mod revision;

mod changes;
mod characters;
mod import;
mod install;
mod strangers;
