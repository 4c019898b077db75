#!/usr/bin/env bash
# Builds the module, starts three servers on loopback, kills the leader, and shows that nothing that was answered is lost.
# Works on a fresh Debian 12 with rustup, as root or with sudo. A redis-server that runs already is left alone.
set -euo pipefail
. "$(dirname "${BASH_SOURCE[0]}")/prepare.sh"

echo "building"
cargo build --release --quiet
cargo build --release --quiet --example demo
exec cargo run --release --quiet --example demo
