//! upstream_proxy
