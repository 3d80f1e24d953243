#!/usr/bin/env bash
# Builds the static binary: dist/out/relay-linux-x64.
#
# Needs the musl target (rustup target add x86_64-unknown-linux-musl) and musl-gcc (Debian: musl-tools) for the
# parts of the crypto library and the allocator that are C.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

target=x86_64-unknown-linux-musl
out=dist/out/relay-linux-x64

cargo build --release --locked --bin parley-relay --target "$target"
mkdir -p "$(dirname "$out")"
# Through a rename: a relay that is running from the old file keeps it, and none sees half a file.
install -m 755 "${CARGO_TARGET_DIR:-target}/$target/release/parley-relay" "$out.new"
mv "$out.new" "$out"

kind=$(file --brief "$out")
case "$kind" in
  *"statically linked"* | *"static-pie linked"*) ;;
  *)
    printf '%s is not static: %s\n' "$out" "$kind" >&2
    exit 1
    ;;
esac
printf '%s: %s bytes, static\n' "$out" "$(stat --format=%s "$out")"
