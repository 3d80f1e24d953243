# The steps that CI runs, one by one. `just ci` runs them all and installs what they need.

# Lists the recipes.
default:
    @just --list

# Every check and every test, as CI does.
ci *filter:
    tests/run {{ filter }}

# The same with the tests that take minutes.
long *filter:
    tests/run --long {{ filter }}

# The formatting.
fmt:
    cargo fmt --check

# The lints.
clippy:
    cargo clippy --locked --all-targets -- -D warnings

# The documentation, private items too.
doc:
    RUSTDOCFLAGS='-D warnings' cargo doc --locked --no-deps --document-private-items

# The shell scripts.
shellcheck:
    shellcheck install.sh tests/run tests/release tests/installer/* .ci/run dist/*.sh dist/debian/*

# The static binary, dist/out/relay-linux-x64.
static:
    dist/build.sh

# Every release file, below dist/out.
release:
    dist/build.sh --all

# The same, looked at as those do who get them, and made twice.
check-release:
    tests/release

# The example config against the static binary.
check-config: static
    dist/out/relay-linux-x64 check config.example.toml

# The tests alone; the peers that they need come from a first tests/run.
test *filter:
    cargo test --locked --lib --bins --tests -- {{ filter }}

# Licences, advisories and sources of the dependencies (cargo install cargo-deny).
deny:
    cargo deny check

# The demo on https://localhost:8443.
demo:
    cargo run --release -- demo
