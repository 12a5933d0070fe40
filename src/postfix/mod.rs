//! The directory as Postfix reads it: main.cf, master.cf, lookup tables. Pure.

mod files;
pub mod main_cf;
pub mod tables;

pub use files::revision_files;
