//! ai-dispatch.
