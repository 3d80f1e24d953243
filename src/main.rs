//! The `parley-relay` program.

use std::process::ExitCode;

/// Smaller than glibc's and musl's in what it keeps, and faster than musl's by far.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    parley_relay::main()
}
