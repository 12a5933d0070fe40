//! What Postfix is told, as text (pure).

pub mod main_cf;
