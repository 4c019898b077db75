#!/usr/bin/env bash
# Measures the log, beside raft-engine and okaywal and the floor of the disk, and writes docs/log-speed.md and
# docs/log-speed.svg. Takes some minutes; the machine should have nothing else to do.
set -euo pipefail
root="$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)"
cd "$root"
export BENCH_DIRECTORY="${BENCH_DIRECTORY:-$root/target}"
mkdir -p "$BENCH_DIRECTORY"

# Built before anything is measured.
own() { CARGO_TARGET_DIR="$root/target" cargo bench --no-default-features --bench log "$@"; }
peers() { (cd benches/peers && CARGO_TARGET_DIR="$root/target/peers" cargo bench --bench append "$@"); }
own --no-run
peers --no-run
(cd benches/peers && CARGO_TARGET_DIR="$root/target/peers" cargo build --release --bin report)

rm -f target/log-speed.tsv
sync
peers
sync
own

model="$(awk -F': ' '/^model name/ { print $2; exit }' /proc/cpuinfo)"
filesystem="$(df --output=fstype "$BENCH_DIRECTORY" | tail -1)"
told="$(date +%Y-%m-%d), $(nproc) cores of ${model:-$(uname -m)}, $filesystem, Linux $(uname -r | cut -d- -f1), scripts/bench-log.sh"
target/peers/release/report target/peers/criterion target/criterion target/log-speed.tsv docs "$told"
