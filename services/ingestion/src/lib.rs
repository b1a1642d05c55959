//! ingestion.
