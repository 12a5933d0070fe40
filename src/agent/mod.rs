//! The supervisor of Postfix in its pod: install a revision, run Postfix, prove, report.
