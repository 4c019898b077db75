#!/usr/bin/env bash
# Builds the module with a defect, in a scratch copy below target/, and demands that a chaos run finds it.
#   tests/chaos/mutants.sh [name ..]     a patch of tests/sim/mutants/; without names: those that clients can see soon
# MINUTES=n: how long one is searched for; FIRST=n: the first seed.
set -euo pipefail
root="$(cd "$(dirname "${BASH_SOURCE[0]}")/../.." && pwd)"
scratch="$root/target/chaos-mutants"
names=("$@")
if [ "${#names[@]}" -eq 0 ]; then names=(released-uncommitted never-dirty); fi

cd "$root"
cargo build --quiet -p redisraft-chaos -p raftlog-tool
mkdir -p "$scratch"
survived=()
for name in "${names[@]}"; do
    rm -rf "$scratch/source"
    mkdir -p "$scratch/source"
    git ls-files -z -- Cargo.toml Cargo.lock src raftlog-tool benches tests examples |
        xargs -0 cp --parents -t "$scratch/source"
    if ! patch --quiet --batch -d "$scratch/source" -p1 <"tests/sim/mutants/$name.patch"; then
        echo "$name: the patch does not apply"
        survived+=("$name")
        continue
    fi
    (cd "$scratch/source" && CARGO_PROFILE_DEV_DEBUG=0 RUSTFLAGS=-Awarnings \
        CARGO_TARGET_DIR="$scratch/target" cargo build --quiet -p redisraft)
    if REDISRAFT_SO="$scratch/target/debug/libredisraft.so" target/debug/chaos --minutes "${MINUTES:-10}" \
        --first "${FIRST:-1}" --directory "$scratch/runs" >"$scratch/$name.log" 2>&1; then
        echo "$name: SURVIVED ${MINUTES:-10} minutes"
        survived+=("$name")
    else
        echo "$name: $(grep -m1 ' FAILED: ' "$scratch/$name.log" || tail -1 "$scratch/$name.log")"
    fi
done
rm -rf "$scratch/source" "$scratch/target" # the logs and what was found stay
if [ "${#survived[@]}" -gt 0 ]; then
    echo "not found: ${survived[*]}"
    exit 1
fi
