//! assign.
