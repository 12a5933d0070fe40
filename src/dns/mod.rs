//! Publishing: what is wanted and what is found become a plan, and one client carries it out.
//!
//! [`record`] and [`plan`] are pure. [`MxHostResolver`] says whether a host is fit to stand in an MX
//! record.

mod error;
pub mod plan;
pub mod record;
mod resolver;

pub use error::DnsError;
pub use record::{Mx, MxSet, Owner};
pub use resolver::MxHostResolver;
