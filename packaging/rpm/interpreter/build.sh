#!/bin/bash
# build.sh [OUT]: build `contextagent` as one static program: interpreter, standard library, libraries, the agent.
#
# Nothing is fetched or built twice: below the cache lie the sources, the base (CPython and the C libraries, ten minutes)
# under the digest of all that goes into it, and the program itself (a few seconds) under the digest of base and agent.
# Prints the program's path; with OUT, copies it there.  Needs: apt-get and its Debian archive key, dpkg-source, make,
# perl, readelf, patch, and pip of $PYTHON.
set -euo pipefail
shopt -s inherit_errexit
here=$(cd "$(dirname "$0")" && pwd)
project=$(cd "$here/../../.." && pwd)
cache=${CONTEXTAGENT_INTERPRETER_CACHE:-$project/.cache/interpreter}
python=${PYTHON:-python3}
suite=trixie
export LC_ALL=C SOURCE_DATE_EPOCH=${SOURCE_DATE_EPOCH:-1700000000}
export ZIG_GLOBAL_CACHE_DIR=$cache/zig ZIG_LOCAL_CACHE_DIR=$cache/zig

say() { printf 'interpreter: %s: %s\n' "$(date -u +%T)" "$*" >&2; }
die() { echo "$*" >&2; exit 1; }
digest() { sha256sum | cut -c 1-16; }

# apt-get with an archive list of its own: the machine's need not have sources, nor this suite.
archive() {
    local state=$cache/apt mirror
    if [ ! -f "$state/updated" ]; then
        mkdir -p "$state"/lists/partial "$state"/cache/archives/partial
        mirror=$(apt-get indextargets --format '$(REPO_URI)' 'Created-By: Packages' 'Origin: Debian' | grep -v security | head -n 1)
        echo "deb-src [signed-by=/usr/share/keyrings/debian-archive-keyring.gpg] $mirror $suite main" >"$state/sources.list"
        cat >"$state/conf" <<EOF
Dir::Etc::sourcelist "$state/sources.list"; Dir::Etc::sourceparts "/dev/null"; Dir::State::lists "$state/lists";
Dir::Cache "$state/cache"; APT::Sandbox::User "root";
EOF
        APT_CONFIG=$state/conf apt-get -qq update >&2
        touch "$state/updated"
    fi
    APT_CONFIG=$state/conf "$@"
}

# Print "name version" of each source package, fetched and verified: the pinned ones, or what has taken their place.
fetch_sources() {
    local name version sha256 dsc newest
    mkdir -p "$cache/sources"
    while read -r name version sha256; do
        case $name in '' | '#'*) continue ;; esac
        dsc=$cache/sources/${name}_${version#*:}.dsc
        if [ ! -f "$dsc" ]; then
            say "fetching $name $version"
            if ! (cd "$cache/sources" && archive apt-get -qq source --download-only "$name=$version" >/dev/null 2>&1); then
                newest=$(archive apt-cache showsrc --only-source "$name" | sed -n 's/^Version: //p' | sort -V | tail -n 1)
                [ -n "$newest" ] || die "cannot fetch '$name': $suite lists no such source package"
                say "warning: $suite no longer lists $name $version, taking $newest by the archive's own signature"
                (cd "$cache/sources" && archive apt-get -qq source --download-only "$name=$newest" >/dev/null)
                version=$newest sha256=
                dsc=$cache/sources/${name}_${version#*:}.dsc
            fi
        fi
        [ -z "$sha256" ] || echo "$sha256  $dsc" | sha256sum --check --status || die "cannot use '$dsc': not the pinned SHA-256"
        echo "$name $version"
    done <"$here/sources.txt"
}

# Print the folder of wheels and archives that a pip requirements file names, each held to its SHA-256 by pip.
fetch_wheels() {
    local folder
    folder=$cache/$1-$(digest <"$here/$1.txt")
    if [ ! -d "$folder" ]; then
        say "fetching $1"
        "$python" -m pip download -qq --no-deps --require-hashes -r "$here/$1.txt" -d "$folder.making" >&2
        mv "$folder.making" "$folder"
    fi
    echo "$folder"
}

# Print the path of the compiler.
unpack_zig() {
    local wheels=$1 folder
    folder=$cache/zig-$(basename "$wheels")
    if [ ! -d "$folder" ]; then
        "$python" -m pip install -qq --no-deps --no-index --target "$folder.making" "$wheels"/*.whl >&2
        mv "$folder.making" "$folder"
    fi
    echo "$folder/ziglang/zig"
}

# Print the folder of CPython and the C libraries, built unless it is there.
make_base() {
    local zig=$1 versions=$2 making folder name version
    folder=$cache/base-$( (echo "$versions"; uname -m; cat "$here"/{base.sh,config.site,toolchain.txt,patches/*}) | digest)
    if [ ! -d "$folder" ]; then
        making=$cache/making-$$
        mkdir -p "$making/sources"
        while read -r name version; do
            dpkg-source -q -x "$cache/sources/${name}_${version#*:}.dsc" "$making/sources/$name" 2>/dev/null ||
                die "cannot unpack '$name' $version"
            for patch in "$here/patches/$name"-*.patch; do
                [ ! -e "$patch" ] || patch -s -p1 -d "$making/sources/$name" <"$patch"
            done
        done <<<"$versions"
        "$here/base.sh" "$making/sources" "$zig" "$making/base" >&2
        rm -rf "$cache"/base-*
        mv "$making/base" "$folder"
        rm -rf "$making"
    fi
    echo "$folder"
}

# Print the path of the program, linked unless it is there.
make_program() {
    local base=$1 libraries=$2 making folder
    folder=$cache/program-$( (echo "${base##*/} ${libraries##*/}"; cat "$here"/{build.sh,freeze.py,main.c,certifi/__init__.py}
        cd "$project" && find contextagent \( -name '*.py' -o -name '*.c' \) | sort | xargs sha256sum) | digest)
    if [ ! -d "$folder" ]; then
        making=$cache/linking-$$
        mkdir -p "$making/netifaces"
        tar -xzf "$libraries"/netifaces_plus-*.tar.gz -C "$making/netifaces" --strip-components=1
        PYTHONHOME=$base PYTHONDONTWRITEBYTECODE=1 PYTHONHASHSEED=0 \
            "$base/python" -S -P -X no_debug_ranges "$here/freeze.py" --standard-library "$base/lib/python3.13" --libraries "$libraries" \
            --linked "$( (echo "${base##*/}"; cat "$here/main.c" "$project/contextagent/host/_guestos.c") | digest)" \
            --out "$making" "$project/contextagent" "$here/certifi" >&2
        (cd "$making" && link "$base")
        mkdir "$making/program"
        mv "$making/contextagent" "$making/program/contextagent"
        mv -T "$making/program" "$folder" 2>/dev/null || [ -d "$folder" ] # two builds at once make the same
        rm -rf "$making"
        # the oldest go, but another tree that shares this cache may be at work with its own
        ls -dt "$cache"/program-* | tail -n +8 | xargs -r rm -rf
    fi
    touch "$folder" # it is in use
    echo "$folder/contextagent"
}

link() {
    local base=$1 cc=$1/bin/guest-cc flags words
    flags=(-O2 -g0 -fno-sanitize=undefined -I"$base/include/python" -I"$base/include")
    words=$(sed "s#^lib/#$base/lib/#" "$base/libraries")
    "$cc" "${flags[@]}" -DNETIFACES_VERSION=0.12.5 -DHAVE_GETIFADDRS=1 -DHAVE_GETNAMEINFO=1 -DHAVE_NETPACKET_PACKET_H=1 \
        -DHAVE_SOCKADDR_IN=1 -DHAVE_SOCKADDR_IN6=1 -DHAVE_SOCKADDR_UN=1 -DHAVE_SOCKADDR_LL=1 -DHAVE_PF_NETLINK=1 \
        -w -Wno-int-conversion -Wno-incompatible-function-pointer-types -c netifaces/netifaces/_netifaces.c -o netifaces.o
    cp "$project/contextagent/host/_guestos.c" guestos.c
    "$cc" "${flags[@]}" -Wall -Wextra -c guestos.c -o guestos.o
    cp "$here/main.c" main.c
    "$cc" "${flags[@]}" -Wall -Wextra -c main.c -o main.o
    "$cc" "${flags[@]}" -c frozen.c -o frozen.o
    # shellcheck disable=SC2086  # one word a library
    "$cc" -static -s -Wl,--gc-sections -Wl,-z,norelro -o contextagent main.o guestos.o netifaces.o frozen.o -L"$base/lib" $words
}

mkdir -p "$cache"
versions=$(fetch_sources)
zig=$(unpack_zig "$(fetch_wheels toolchain)")
base=$(make_base "$zig" "$versions")
program=$(make_program "$base" "$(fetch_wheels libraries)")
[ $# -eq 0 ] || install -D -m 0755 "$program" "$1"
echo "$program"
