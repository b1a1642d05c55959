//! Simulations: the whole system in one process, over a store that fails by a seed, driven as the world drives it.
//!
//! The tests are in `tests/sim`. Each prints its seed when it fails; `ISOCENTER_SIM_SEED` runs them with that seed alone.
