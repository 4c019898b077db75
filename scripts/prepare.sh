# What demo.sh, test.sh and benchmark.sh need on a fresh Debian 12 with rustup. To be sourced, from anywhere.
# Installs only what is missing, and says so; needs root or sudo only then. NEEDS_CXX: a C++ compiler too, for libFuzzer.

cd "$(dirname "${BASH_SOURCE[0]}")/.."

as_root() {
    if [ "$(id -u)" -eq 0 ]; then "$@"; else sudo "$@"; fi
}

# The C interface, which bindgen loads. libclang-cpp.so, which comes with other packages, is not it.
has_libclang() {
    compgen -G '/usr/lib/llvm-*/lib/libclang[.-][s0-9]*' >/dev/null ||
        ldconfig -p 2>/dev/null | grep -Eq 'libclang(-[0-9.]+)?\.so'
}

install_missing_packages() {
    local missing=()
    command -v redis-server >/dev/null || missing+=(redis-server)
    { command -v redis-cli && command -v redis-benchmark; } >/dev/null || missing+=(redis-tools)
    command -v cc >/dev/null || missing+=(gcc libc6-dev)
    [ -z "${NEEDS_CXX:-}" ] || command -v c++ >/dev/null || missing+=(g++)
    has_libclang || missing+=(libclang-dev)
    { command -v unshare && command -v setpriv && command -v prlimit; } >/dev/null || missing+=(util-linux)
    if [ "${#missing[@]}" -eq 0 ]; then return; fi
    echo "installing ${missing[*]}"
    if ! command -v apt-get >/dev/null; then
        echo "this script installs packages with apt-get only; install ${missing[*]} and run it again" >&2
        exit 1
    fi
    as_root apt-get update -qq
    as_root env DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends "${missing[@]}" >/dev/null
}

find_cargo() {
    if ! command -v cargo >/dev/null && [ -r "${CARGO_HOME:-$HOME/.cargo}/env" ]; then
        . "${CARGO_HOME:-$HOME/.cargo}/env"
    fi
    if ! command -v cargo >/dev/null; then
        echo "cargo is missing: install Rust from https://rustup.rs and run this script again" >&2
        exit 1
    fi
}

check_redis_version() {
    local version
    version="$("${REDIS_SERVER:-redis-server}" --version | sed -n 's/.* v=\([0-9]*\)\..*/\1/p')"
    if [ -z "$version" ] || [ "$version" -lt 7 ]; then
        echo "redis-server 7.0 or newer is needed: $("${REDIS_SERVER:-redis-server}" --version)" >&2
        exit 1
    fi
}

install_missing_packages
find_cargo
check_redis_version
