#!/usr/bin/env bash
# Breaks real clusters for an hour and judges what their clients saw; docs/testing.md says how.
# scripts/chaos.sh [--minutes N | --seed N] ..    all options: scripts/chaos.sh --help
# On failure it names the directory that holds the plan, the history and the servers' logs, and the seed that draws the plan.
set -euo pipefail
. "$(dirname "${BASH_SOURCE[0]}")/prepare.sh"

# Together, so that the module is built whole.
cargo build --release --quiet -p redisraft-chaos -p raftlog-tool
if [ "$#" -eq 0 ]; then set -- --minutes 60; fi
exec target/release/chaos "$@"
