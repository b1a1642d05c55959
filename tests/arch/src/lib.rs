//! tests-arch.
