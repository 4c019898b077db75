#!/usr/bin/env bash
# Puts one defect after the other into a scratch copy and demands that the simulator finds it.
#   tests/sim/mutants/run.sh [name ..]     without names: all; JOBS=n: workers of each run
# Each patch says in how many seeds it must be found, and what it is. A patch that does not apply fails the run: the
# code has changed, so change the patch.
set -euo pipefail
here="$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)"
root="$(cd "$here/../../.." && pwd)"
scratch="$root/target/mutants"
mkdir -p "$scratch/source"

# Files that did not change keep their times, so that only what a patch touches is compiled.
refresh() {
    (cd "$root" && git ls-files -z -- Cargo.toml Cargo.lock src tests/sim tests/chaos raftlog-tool benches) |
        while IFS= read -r -d '' file; do
            mkdir -p "$scratch/source/$(dirname "$file")"
            cmp -s "$root/$file" "$scratch/source/$file" || cp "$root/$file" "$scratch/source/$file"
        done
}

simulate() {
    (cd "$scratch/source" &&
        CARGO_PROFILE_RELEASE_LTO=off CARGO_PROFILE_RELEASE_CODEGEN_UNITS=16 CARGO_PROFILE_RELEASE_DEBUG=0 \
            CARGO_PROFILE_RELEASE_INCREMENTAL=true CARGO_TARGET_DIR="$scratch/target" \
            cargo build --quiet --release -p redisraft-sim --bin sim) || return 2
    timeout 3600 "$scratch/target/release/sim" --seeds "0..$1" --fail-fast --jobs "${JOBS:-0}" >"$scratch/output" 2>&1
}

refresh
names=("$@")
if [ "${#names[@]}" -eq 0 ]; then
    for patch in "$here"/*.patch; do names+=("$(basename "$patch" .patch)"); done
fi
survived=()
for name in "${names[@]}"; do
    patch="$here/$name.patch"
    seeds="$(sed -n 's/^Seeds: //p' "$patch")"
    if ! patch --quiet --batch --forward --fuzz=0 -d "$scratch/source" -p1 <"$patch"; then
        echo "$name: the patch does not apply"
        survived+=("$name")
        refresh
        continue
    fi
    outcome=0
    simulate "$seeds" || outcome=$?
    case "$outcome" in
        0) echo "$name: SURVIVED $seeds seeds"; survived+=("$name") ;;
        2) echo "$name: does not compile"; survived+=("$name") ;;
        *)
            found="$(sed -n 's/^seed \([0-9]*\) FAILED.*/\1/p' "$scratch/output" | head -1)"
            why="$(sed -n '/panicked at/{n;p;q}' "$scratch/output" | cut -c1-110)"
            echo "$name: found by seed ${found:-none (the run did not end)}: $why"
            [ -n "$found" ] || survived+=("$name")
            ;;
    esac
    refresh
    rm -f "$scratch"/source/src/*/*.orig "$scratch"/source/src/*/*.rej
done
if [ "${#survived[@]}" -gt 0 ]; then
    echo "not found: ${survived[*]}"
    exit 1
fi
echo "all ${#names[@]} mutants were found"
