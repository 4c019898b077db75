#!/usr/bin/env bash
# Ours beside plain servers in one run on this machine: throughput, CPU per operation, memory, and failover time.
# Takes about ten minutes; QUICK=1 takes one. TMPDIR chooses the disk. The output is Markdown.
set -euo pipefail
. "$(dirname "${BASH_SOURCE[0]}")/prepare.sh"

cargo build --release --quiet
cargo build --release --quiet --examples

echo "date: $(date -u +%F), commit: $(git rev-parse --short HEAD 2>/dev/null || echo unknown)"
echo "machine: $(nproc) cores, $(sed -n 's/^model name[^:]*: //p' /proc/cpuinfo | head -1), Linux $(uname -r)"
echo "server: $("${REDIS_SERVER:-redis-server}" --version)"
echo "disk: $(df --output=source,fstype "${TMPDIR:-/tmp}" | tail -1)"
echo "uptime before:$(uptime)"
cargo run --release --quiet --example sync_floor
echo
cargo run --release --quiet --example benchmark
echo
if [ "${QUICK:-0}" = 1 ]; then export ROUNDS=3; fi
cargo run --release --quiet --example failover
cargo run --release --quiet --example sync_floor
echo "uptime after:$(uptime)"
