#!/usr/bin/env bash
# What snapshots cost, beside plain servers, into docs/snapshot-speed.md. About ten minutes and 4 GB of memory and of disk
# at full size; the machine should have nothing else to do. SIZE_MB=64 ENTRIES=50000 is a quick look; OUTPUT names
# another file, TMPDIR another disk.
set -euo pipefail
. "$(dirname "${BASH_SOURCE[0]}")/prepare.sh"

output="${OUTPUT:-docs/snapshot-speed.md}"
cargo build --release --quiet
cargo build --release --quiet --examples
server="${REDIS_SERVER:-redis-server}"
{
    echo "# What snapshots cost"
    echo
    echo "\`SIZE_MB=${SIZE_MB:-1024} ENTRIES=${ENTRIES:-1000000} RATE=${RATE:-2000} scripts/bench-snapshot.sh\`, $(date -u +%F)"
    echo
    echo "* machine: $(nproc) cores, $(sed -n 's/^model name[^:]*: //p' /proc/cpuinfo | head -1), Linux $(uname -r | cut -d- -f1)"
    echo "* server: $("$server" --version | cut -d ' ' -f 1-3)"
    echo "* disk: $(df --output=fstype "${TMPDIR:-/tmp}" | tail -1)"
    echo "* load before: $(cut -d ' ' -f 1-3 /proc/loadavg)"
    echo "* $(target/release/examples/sync_floor | sed 's/ in [^:]*:/:/')"
    timeout 1800 target/release/examples/snapshot_speed
    echo
    echo "Load after: $(cut -d ' ' -f 1-3 /proc/loadavg)"
} >"$output.tmp"
mv "$output.tmp" "$output"
cat "$output"
