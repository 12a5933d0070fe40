//! Publishing: what is wanted and what is found become a plan, and one client carries it out.
//!
//! [`record`] and [`plan`] are pure.

pub mod plan;
pub mod record;

pub use record::{Mx, MxSet, Owner};
