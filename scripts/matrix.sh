#!/usr/bin/env bash
# Runs server tests against each of target/servers/ (scripts/servers.sh) and the installed server, and prints a table.
# scripts/matrix.sh [name ..]    names as in target/servers/, "installed" for the installed one; TESTS="server_start .."
set -euo pipefail
. "$(dirname "${BASH_SOURCE[0]}")/prepare.sh"

tests="${TESTS:-server_start server_commands server_clients server_determinism server_failover server_partition}"
names=("$@")
if [ "${#names[@]}" -eq 0 ]; then
    scripts/servers.sh
    names=(installed)
    for wrapper in target/servers/*/redis-server; do names+=("$(basename "$(dirname "$wrapper")")"); done
fi
selection=()
for test in $tests; do selection+=(--test "$test"); done
mkdir -p target/matrix
cargo test --no-run "${selection[@]}"

server_of() {
    case "$1" in
    installed) command -v redis-server ;;
    *) echo "$PWD/target/servers/$1/redis-server" ;;
    esac
}

failed=0
for name in "${names[@]}"; do
    server="$(server_of "$name")"
    if [ ! -x "$server" ]; then
        echo "there is no $server: run scripts/servers.sh" >&2
        exit 1
    fi
    echo "== $name: $("$server" --version | cut -d ' ' -f 1-3)"
    REDIS_SERVER="$server" cargo test --no-fail-fast "${selection[@]}" >"target/matrix/$name.log" 2>&1 || failed=1
    grep '^test .*FAILED$' "target/matrix/$name.log" || true
done

# Passed of all, by file and server. A file without a result ended before its end.
printf '\n%-20s' "passed"
printf '%16s' "${names[@]}"
for test in $tests; do
    printf '\n%-20s' "$test"
    for name in "${names[@]}"; do
        printf '%16s' "$(awk -v file="tests/$test.rs" '
            $1 == "Running" { here = $2 == file }
            here && /^test result:/ { found = 1; printf "%d of %d", $4, $4 + $6 }
            END { if (!found) printf "no result" }' "target/matrix/$name.log")"
    done
done
printf '\n\n'
[ "$failed" -eq 0 ] || echo "FAILED: the logs are in target/matrix/"
exit "$failed"
