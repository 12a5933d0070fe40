//! Publishing: what is wanted and what is found become a plan, and one client carries it out.
