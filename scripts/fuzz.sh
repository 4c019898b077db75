#!/usr/bin/env bash
# Fuzzes what reads the network and the disk: scripts/fuzz.sh [--seconds N] [target ..]; all targets, 60 s each, if none
# is named. What is new goes to target/fuzz/corpus, what fails to target/fuzz/artifacts; `fuzz.sh target file` runs a file.
# scripts/fuzz.sh --smoke: replays the kept corpus and goes on for a fixed number of inputs, the same each time.
# scripts/fuzz.sh --lint: lints the targets and runs nothing.
# Works with stable Rust; with nightly, `cargo fuzz run <target>` does the same with the address sanitizer.
set -euo pipefail
NEEDS_CXX=1
. "$(dirname "${BASH_SOURCE[0]}")/prepare.sh"

seconds=60
smoke=
lint=
targets=()
files=()
while [ $# -gt 0 ]; do
    case "$1" in
        --seconds) seconds="$2"; shift ;;
        --smoke) smoke=1 ;;
        --lint) lint=1 ;;
        *) if [ -f "fuzz/fuzz_targets/$1.rs" ]; then targets+=("$1")
           elif [ -f "$1" ]; then files+=("$1")
           else echo "$1 is neither a target ($(ls fuzz/fuzz_targets | sed 's/\.rs$//' | xargs)) nor a file" >&2; exit 2; fi ;;
    esac
    shift
done
if [ "${#targets[@]}" -eq 0 ]; then
    for file in fuzz/fuzz_targets/*.rs; do targets+=("$(basename "$file" .rs)"); done
fi

host="$(rustc -vV | sed -n 's/^host: //p')"
# What cargo-fuzz passes without a sanitizer: coverage that libFuzzer understands.
flags=(--cfg fuzzing -Cpasses=sancov-module)
for argument in -sanitizer-coverage-level=4 -sanitizer-coverage-inline-8bit-counters \
    -sanitizer-coverage-pc-table -sanitizer-coverage-trace-compares; do
    flags+=("-Cllvm-args=$argument")
done
export RUSTFLAGS="${flags[*]}"
# --target: the flags are for the targets, not for build scripts. Lints share them, so that libFuzzer is built once.
build=(--release --manifest-path fuzz/Cargo.toml --target "$host" --target-dir target/fuzz)
if [ -n "$lint" ]; then
    exec cargo clippy "${build[@]}" --all-targets -- -D warnings
fi
cargo build "${build[@]}" --bins

# Inputs of a smoke run: some seconds' worth.
runs() {
    case "$1" in
        recovery) echo 4000 ;;
        handshake | index | snapshot) echo 25000 ;;
        *) echo 100000 ;;
    esac
}

for target in "${targets[@]}"; do
    program="target/fuzz/$host/release/$target"
    mkdir -p "target/fuzz/artifacts/$target" "target/fuzz/corpus/$target"
    options=("-artifact_prefix=target/fuzz/artifacts/$target/" -timeout=300 -print_final_stats=1)
    echo "== fuzz: $target"
    if [ "${#files[@]}" -gt 0 ]; then
        "$program" "${options[@]}" "${files[@]}"
    elif [ -n "$smoke" ]; then
        fresh="$(mktemp -d)"
        log="$(mktemp)"
        if "$program" "${options[@]}" -seed=1 "-runs=$(runs "$target")" "$fresh" "fuzz/corpus/$target" >"$log" 2>&1; then
            grep -E '^(Done|stat::number_of_executed_units)' "$log"
            rm -r "$fresh" "$log"
        else
            cat "$log"
            rm -r "$fresh" "$log"
            exit 1
        fi
    else
        "$program" "${options[@]}" "-max_total_time=$seconds" "target/fuzz/corpus/$target" "fuzz/corpus/$target"
    fi
done
