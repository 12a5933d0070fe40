//! The directory as Postfix reads it: main.cf, master.cf, lookup tables, shards. Pure.

mod custody;
mod files;
pub mod main_cf;
pub mod shards;
pub mod standing;
pub mod tables;
pub mod transport;

pub use files::revision_files;
