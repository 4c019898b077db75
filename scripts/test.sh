#!/usr/bin/env bash
# All checks: format, lints, and every test, without and with the Redis module. FULL=1 runs the long fault loops.
set -euo pipefail
NEEDS_CXX=1
. "$(dirname "${BASH_SOURCE[0]}")/prepare.sh"

{ cargo fmt --version && cargo clippy --version; } >/dev/null 2>&1 || rustup component add rustfmt clippy

output="$(mktemp)"
trap 'rm -f "$output"' EXIT
failed=()

check() {
    local name="$1" started=$SECONDS
    shift
    echo "== $name: $*"
    if "$@" 2>&1 | tee -a "$output"; then
        echo "== $name: passed in $((SECONDS - started)) s"
    else
        echo "== $name: FAILED after $((SECONDS - started)) s"
        failed+=("$name")
    fi
}

check "format" cargo fmt --all --check
check "format of the fuzz targets" cargo fmt --manifest-path fuzz/Cargo.toml --check
check "lints without Redis" cargo clippy --workspace --all-targets --no-default-features -- -D warnings
check "lints" cargo clippy --workspace --all-targets -- -D warnings
check "lints of the fuzz targets" scripts/fuzz.sh --lint
check "tests without Redis" cargo test --workspace --no-default-features --no-fail-fast
check "tests with real servers" cargo test --workspace --no-fail-fast
# With the whole workspace, as above, so that nothing is built anew.
check "chaos" cargo test --workspace --test chaos -- --ignored --nocapture
check "simulation" cargo run --release -p redisraft-sim --bin sim -- --seeds 0..200 --fresh 50 \
    --kept tests/sim/seeds.txt
check "fuzzing" scripts/fuzz.sh --smoke

awk '/^test result:/ { passed += $4; failed += $6; ignored += $8 }
    END { printf "\n%d tests passed, %d failed, %d ignored\n", passed, failed, ignored }' "$output"
if [ "${#failed[@]}" -gt 0 ]; then
    printf 'FAILED: %s\n' "${failed[@]}"
    exit 1
fi
echo "all checks passed in $SECONDS s"
