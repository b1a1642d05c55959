//! tests-sim.
