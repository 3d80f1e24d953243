//! static_binary
