//! The directory as Postfix reads it: main.cf, master.cf, lookup tables. Pure.

pub mod main_cf;
pub mod tables;
