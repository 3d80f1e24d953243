#!/usr/bin/env bash
# Builds what is given away, into dist/out.
#
#     dist/build.sh          relay-linux-x64 alone: what the tests need
#     dist/build.sh --all    every release file: both binaries, checksums, packages, man pages, completions, SBOM
#
# Needs the musl target (rustup target add x86_64-unknown-linux-musl) and musl-gcc (Debian: musl-tools) for the
# parts of the crypto library and the allocator that are C. What --all needs beside them is fetched into
# target/tools, in the versions below.
#
# PARLEY_RELAY_UPDATE_KEY, if it is set, is the minisign public key that `parley-relay update` then asks for.
#
# Reproducible: the same commit, built by the same rustc and C compiler, gives the same bytes in any directory.
# Nothing of the machine's paths or clock goes in; the date of what has one is SOURCE_DATE_EPOCH, or the commit's.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

readonly ziglang=0.15.2 cargo_zigbuild=0.24.0 cargo_deb=3.8.0 cargo_cyclonedx=0.5.9
readonly x64=x86_64-unknown-linux-musl arm64=aarch64-unknown-linux-musl
readonly out=dist/out tools=$PWD/target/tools
built=${CARGO_TARGET_DIR:-target}

case "${1:-}" in
  '' | --all) ;;
  -h | --help)
    sed -n '2,/^set/{/^set/d;s/^# \{0,1\}//;p}' "${BASH_SOURCE[0]}"
    exit 0
    ;;
  *)
    printf 'dist/build.sh: unknown option %s\n' "$1" >&2
    exit 64
    ;;
esac

step() {
  printf '\n== %s\n' "$*"
}

# Takes the build directory, the registry and the toolchain out of what compilers write down.
forget_paths() {
  local cargo_home=${CARGO_HOME:-$HOME/.cargo} sysroot
  sysroot=$(rustc --print sysroot)
  export RUSTFLAGS="--remap-path-prefix=$PWD=/build --remap-path-prefix=$cargo_home=/cargo --remap-path-prefix=$sysroot=/rust"
  export CFLAGS="-ffile-prefix-map=$PWD=/build -ffile-prefix-map=$cargo_home=/cargo"
  # The allocator writes down when it was built.
  CFLAGS+=' -Wno-builtin-macro-redefined -D__DATE__="-" -D__TIME__="-"'
  # A pinned build takes no other flags from the machine.
  unset CARGO_ENCODED_RUSTFLAGS CXXFLAGS
}

# deliver TARGET NAME : puts a binary into dist/out, if it is what it has to be.
deliver() {
  local binary=$built/$1/release/parley-relay file=$out/$2 kind
  kind=$(file --brief "$binary")
  case "$kind" in
    *"statically linked"* | *"static-pie linked"*) ;;
    *)
      printf '%s is not static: %s\n' "$binary" "$kind" >&2
      exit 1
      ;;
  esac
  if grep --quiet --text --fixed-strings --regexp="$PWD/" --regexp="${CARGO_HOME:-$HOME/.cargo}/" "$binary"; then
    printf '%s holds a path of this machine\n' "$binary" >&2
    exit 1
  fi
  mkdir -p "$out"
  # Through a rename: a relay that is running from the old file keeps it, and none sees half a file.
  install -m 755 "$binary" "$file.new"
  mv "$file.new" "$file"
  printf '%s: %s bytes, static\n' "$file" "$(stat --format=%s "$file")"
}

fetch_tools() {
  if [ ! -x "$tools/venv/bin/cargo-zigbuild" ]; then
    step "pip install ziglang==$ziglang cargo-zigbuild==$cargo_zigbuild"
    python3 -m venv --clear "$tools/venv"
    "$tools/venv/bin/pip" install --quiet --disable-pip-version-check \
      "ziglang==$ziglang" "cargo-zigbuild==$cargo_zigbuild"
  fi
  local crate
  for crate in "cargo-deb@$cargo_deb" "cargo-cyclonedx@$cargo_cyclonedx"; do
    if [ -x "$tools/bin/${crate%@*}" ]; then continue; fi
    step "cargo install $crate"
    # Without our flags: they are for what is given away.
    env -u RUSTFLAGS -u CFLAGS CARGO_TARGET_DIR="$tools/build" \
      cargo install --quiet --locked --root "$tools" "$crate"
  done
  if [ ! -d "$(rustc --print sysroot)/lib/rustlib/$arm64" ]; then
    step "rustup target add $arm64"
    rustup target add "$arm64"
  fi
}

# Man pages and completions, by the binary itself.
write_manuals() {
  local native=$out/relay-linux-x64
  if [ "$(uname -m)" = aarch64 ]; then native=$out/relay-linux-arm64; fi
  rm -rf "$out/man" "$out/completions"
  "$native" generate man "$out/man"
  "$native" generate completions "$out/completions"
}

# The unit says where install.sh puts the binary; a package's place is another. Its other units stay out: apt updates
# a package, and sockets of systemd's are for those who ask for them (`parley-relay unit`).
write_packages() {
  local staging=target/deb target name page maintainer
  rm -rf "$staging"
  mkdir -p "$staging/units" "$staging/man"
  sed 's#/usr/local/bin/#/usr/bin/#g' dist/parley-relay.service >"$staging/units/parley-relay.service"
  maintainer=$(sed -n 's/^maintainer = "\(.*\)"/\1/p' Cargo.toml)
  printf '%s\n\n' "parley-relay ($version-1) unstable; urgency=medium" '  * See CHANGELOG.md.' \
    " -- $maintainer  $(date --utc --rfc-email --date="@$SOURCE_DATE_EPOCH")" | gzip --best --no-name >"$staging/changelog.Debian.gz"
  for page in "$out"/man/*.1; do
    gzip --best --no-name --stdout "$page" >"$staging/man/${page##*/}.gz"
  done
  for target in "$x64" "$arm64"; do
    name=parley-relay_$version
    case "$target" in
      "$x64") name+=_amd64.deb ;;
      "$arm64") name+=_arm64.deb ;;
    esac
    "$tools/bin/cargo-deb" --locked --no-build --no-strip --target "$target" --output "$out/$name"
  done
}

# What is linked in, for those who look for an advisory's crate.
write_sbom() {
  "$tools/bin/cargo-cyclonedx" cyclonedx --format json --spec-version 1.5 --target "$x64" --no-build-deps \
    --override-filename sbom --quiet
  sed "s#path+file://$PWD\#parley-relay#path+file:///build\#parley-relay#" sbom.json >"$out/parley-relay.cdx.json"
  rm sbom.json
}

# Checksums of everything that stands beside them, and the version that it is.
write_sums() {
  printf '%s\n' "$version" >"$out/version.txt"
  if [ -f install.sh ]; then install -m 755 install.sh "$out/install.sh"; fi
  install -m 644 dist/Containerfile "$out/Containerfile"
  tar --create --gzip --file "$out/parley-relay-docs.tar.gz" --directory "$out" \
    --sort=name --owner=0 --group=0 --numeric-owner --mtime="@$SOURCE_DATE_EPOCH" man completions
  local files=() file
  for file in "$out"/*; do
    case "$file" in *.new | */SHA256SUMS*) continue ;; esac
    if [ -f "$file" ]; then files+=("${file##*/}"); fi
  done
  (cd "$out" && sha256sum -- "${files[@]}" >SHA256SUMS)
}

forget_paths
step "$x64"
cargo build --release --locked --bin parley-relay --target "$x64"
deliver "$x64" relay-linux-x64
if [ "${1:-}" != --all ]; then exit 0; fi

# For what has a date in it; the programs have none, and need not be compiled anew for another one.
export SOURCE_DATE_EPOCH=${SOURCE_DATE_EPOCH:-$(git log -1 --format=%ct 2>/dev/null || stat --format=%Y Cargo.lock)}
version=$(sed -n 's/^version = "\(.*\)"/\1/p' Cargo.toml | head -n 1)
fetch_tools
step "$arm64"
PATH="$tools/venv/bin:$PATH" cargo zigbuild --release --locked --bin parley-relay --target "$arm64"
deliver "$arm64" relay-linux-arm64
step 'man pages, completions, packages, SBOM'
write_manuals
write_packages
write_sbom
write_sums
ls -l "$out"
