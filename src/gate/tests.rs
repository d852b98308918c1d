//! The gate as values in and values out.
