//! config_check
