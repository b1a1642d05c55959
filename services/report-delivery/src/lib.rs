//! report-delivery.
