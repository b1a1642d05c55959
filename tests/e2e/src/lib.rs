//! End-to-end tests: the real binary, real files, and peers that nobody here wrote. They are in `tests/e2e`, the Python
//! programs that they call in `python`.
