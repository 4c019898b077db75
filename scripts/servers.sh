#!/usr/bin/env bash
# Fetches other servers than the installed one into target/servers/<name>/, without installing anything: on Debian 12.
# Each gets a wrapper target/servers/<name>/redis-server, to be used as REDIS_SERVER. What is there already is kept.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

servers="$PWD/target/servers"
# What the servers of the next release are linked to: they run with its loader and its libraries, not this machine's.
libraries=(libc6 libssl3t64 libsystemd0 libjemalloc2 liblzf1 libatomic1 libgcc-s1 libstdc++6 libcap2 libzstd1 zlib1g)

fail() {
    echo "$1" >&2
    exit 1
}

# The address that this machine's own packages come from.
archive() {
    local codename
    codename="$(. /etc/os-release && echo "${VERSION_CODENAME:-}")"
    apt-get indextargets --no-release-info --format '$(RELEASE) $(COMPONENT) $(REPO_URI)' 'Created-By: Packages' |
        awk -v codename="$codename" '$1 == codename && $2 == "main" { print $3; exit }'
}

# apt-get in a root of its own for one suite: the machine's lists, packages and preferences are not touched.
private_apt() {
    local root="$servers/.apt-$1"
    shift
    apt-get -qq -o Dir::Etc::SourceList="$root/sources.list" -o Dir::Etc::SourceParts="$root/none" \
        -o Dir::Etc::Preferences=/dev/null -o Dir::Etc::PreferencesParts="$root/none" -o Dir::State="$root" \
        -o Dir::State::status="$root/status" -o Dir::Cache="$root/cache" -o APT::Sandbox::User="$(id -un)" "$@"
}

prepare_suite() {
    local suite="$1" root="$servers/.apt-$1"
    [ ! -e "$root/ready" ] || return 0
    mkdir -p "$root/none" "$root/lists/partial" "$root/cache/archives/partial"
    touch "$root/status"
    echo "deb [signed-by=/usr/share/keyrings/debian-archive-keyring.gpg] $archive $suite main" >"$root/sources.list"
    private_apt "$suite" update
    touch "$root/ready"
}

# Name, suite, program, and the packages with it and what it needs. The wrapper execs: its pid is the server's.
fetch() {
    local name="$1" suite="$2" program="$3" packages=("${@:4}")
    local home="$servers/$name" loader=()
    if [ ! -x "$home/redis-server" ]; then
        echo "fetching $name from $suite"
        prepare_suite "$suite"
        rm -rf "$home"
        mkdir -p "$home/packages" "$home/tree"
        (cd "$home/packages" && private_apt "$suite" download "${packages[@]}")
        for package in "$home"/packages/*.deb; do dpkg -x "$package" "$home/tree"; done
        rm -r "$home/packages"
        if compgen -G "$home/tree/usr/lib/*/ld-linux-*" >/dev/null; then
            local found=("$home"/tree/usr/lib/*/ld-linux-*)
            loader=("${found[0]}" --library-path "$(dirname "${found[0]}")" --argv0 "$program")
        fi
        {
            echo '#!/bin/sh'
            printf 'exec'
            printf ' %q' ${loader[@]+"${loader[@]}"} "$home/tree/usr/bin/$program"
            echo ' "$@"'
        } >"$home/redis-server.new"
        chmod +x "$home/redis-server.new"
        "$home/redis-server.new" --version >/dev/null || fail "$name does not run on this machine"
        mv "$home/redis-server.new" "$home/redis-server"
    fi
    echo "target/servers/$name/redis-server: $("$home/redis-server" --version | cut -d ' ' -f 1-3)"
}

command -v apt-get >/dev/null && command -v dpkg >/dev/null || fail "this script needs apt-get and dpkg"
archive="$(archive)"
[ -n "$archive" ] || fail "the sources of apt have no Debian release of this machine: cannot tell where to fetch from"
mkdir -p "$servers"

fetch valkey-8.0 bookworm-backports valkey-server valkey-server valkey-tools
fetch redis-8.0 trixie redis-server redis-server redis-tools "${libraries[@]}"
fetch valkey-8.1 trixie valkey-server valkey-server valkey-tools "${libraries[@]}"
