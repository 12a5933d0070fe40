#![allow(missing_docs)]
//! What holds for any set of objects: generated sets, judged by the directory and by a naive reference.

mod hostile;
mod large;
mod properties;
mod reasons;
mod reference;
mod sets;
mod tables;
mod trial;
mod updates;
