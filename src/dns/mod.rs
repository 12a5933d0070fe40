//! Publishing: what is wanted and what is found become a plan, and one client carries it out.
//!
//! [`record`] and [`plan`] are pure. [`powerdns`] is the only caller of the PowerDNS API, [`publish`]
//! and [`withdraw`] are the two things that the operator asks of it, and [`MxHostResolver`] says
//! whether a host is fit to stand in an MX record.

mod error;
pub mod plan;
pub mod powerdns;
mod publish;
pub mod record;
mod resolver;
mod zone;

pub use error::DnsError;
pub use powerdns::{ApiKey, PowerDns};
pub use publish::{Guard, PublishRequest, PublishedMx, WithdrawRequest, Withdrawal, publish, withdraw};
pub use record::{Mx, MxSet, Owner};
pub use resolver::MxHostResolver;
