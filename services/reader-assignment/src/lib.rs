//! reader-assignment.
