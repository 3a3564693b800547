#!/bin/bash
# base.sh SOURCES ZIG OUT: build what changes least: zlib, bzip2, lzma, OpenSSL and CPython as static libraries.
#
# SOURCES holds the Debian source packages, unpacked, each under its name; ZIG is the compiler.  OUT gets include/, lib/
# with the standard library in it, `libraries` (what to link with) and `python` (a plain one that runs here, to compile
# with; OUT is its PYTHONHOME).
# Everything is built by relative paths and a pinned compiler, so two builders in two folders get the same bytes.
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
sources=$1 zig=$2 out=$3
arch=$(uname -m)
jobs=${JOBS:-$(nproc)}

say() { printf 'interpreter: %s: %s\n' "$(date -u +%T)" "$*"; }

# Run a part's commands with their output in a file, whose end is shown if they fail.
part() {
    local name=$1 log
    log=$out/$name.log
    say "$name"
    "build_$name" >"$log" 2>&1 || { tail -n 40 "$log" >&2; echo "cannot build '$name': see above" >&2; exit 1; }
}

case $arch in
    x86_64) cpu=x86_64 ;; # the first there was: what is faster is asked for at run time
    *) cpu=generic ;;
esac
mkdir -p "$out"/{bin,lib,include,work}
out=$(cd "$out" && pwd)
ln -s "$sources" "$out/work/sources"
cat >"$out/bin/guest-cc" <<EOF
#!/bin/sh
exec $zig cc -target $arch-linux-musl -mcpu=$cpu -Wno-date-time "\$@"
EOF
printf '#!/bin/sh\nexec %s ar "$@"\n' "$zig" >"$out/bin/guest-ar"
printf '#!/bin/sh\nexec %s ranlib "$@"\n' "$zig" >"$out/bin/guest-ranlib"
chmod +x "$out"/bin/*
export PATH=$out/bin:$PATH CC=guest-cc AR=guest-ar RANLIB=guest-ranlib
export SOURCE_DATE_EPOCH=${SOURCE_DATE_EPOCH:-1700000000} LC_ALL=C TZ=UTC
flags="-O2 -g0 -fno-sanitize=undefined -ffunction-sections -fdata-sections -fno-asynchronous-unwind-tables -fno-unwind-tables"

build_zlib() {
    cd "$out/work" && mkdir zlib && cd zlib
    for file in adler32 crc32 deflate inffast inflate inftrees trees zutil compress uncompr; do
        $CC $flags -DHAVE_UNISTD_H -I../sources/zlib -c "../sources/zlib/$file.c" -o "$file.o"
    done
    $AR rcD "$out/lib/libz.a" ./*.o
    cp ../sources/zlib/{zlib,zconf}.h "$out/include"
}

build_bzip2() {
    cd "$out/work" && mkdir bzip2 && cd bzip2
    for file in blocksort huffman crctable randtable compress decompress bzlib; do
        $CC $flags -D_FILE_OFFSET_BITS=64 -c "../sources/bzip2/$file.c" -o "$file.o"
    done
    $AR rcD "$out/lib/libbz2.a" ./*.o
    cp ../sources/bzip2/bzlib.h "$out/include"
}

build_lzma() {
    cd "$out/work" && mkdir lzma && cd lzma
    ../sources/xz-utils/configure -q "--host=$arch-linux-musl" CFLAGS="$flags" --prefix=/ --disable-shared \
        --disable-threads --disable-{xz,xzdec,lzmadec,lzmainfo,scripts,doc,nls}
    make -s "-j$jobs" -C src/liblzma
    cp src/liblzma/.libs/liblzma.a "$out/lib"
    cp -r ../sources/xz-utils/src/liblzma/api/{lzma.h,lzma} "$out/include"
}

# /dev/urandom: a fresh guest without the getrandom call would wait minutes for /dev/random
build_openssl() {
    cd "$out/work" && mkdir openssl && cd openssl
    ../sources/openssl/Configure "linux-$arch" --prefix=/usr --libdir=lib --openssldir=/etc/pki/tls \
        no-shared no-pic no-dso no-module no-engine no-async no-apps no-tests no-docs no-legacy no-comp no-dtls no-quic \
        no-srp no-psk no-ts no-cmp no-ct no-ui-console no-autoload-config no-http no-aria no-bf no-camellia no-cast \
        no-idea no-mdc2 no-rc2 no-rc4 no-seed no-siphash no-sm2 no-sm3 no-sm4 no-whirlpool no-ml-dsa no-slh-dsa \
        no-ml-kem enable-ec_nistp_64_gcc_128 $flags '-DDEVRANDOM="\"/dev/urandom\""'
    make -s "-j$jobs" build_libs
    cp libcrypto.a libssl.a "$out/lib"
    cp -r ../sources/openssl/include/openssl "$out/include"
    cp include/openssl/*.h "$out/include/openssl"
}

build_python() {
    cd "$out/work" && mkdir -p python/Modules && cd python
    printf '*static*\n' >Modules/Setup.local
    CONFIG_SITE=$here/config.site ../sources/python3.13/configure READELF=readelf OPT=-DNDEBUG CFLAGS="$flags" \
        CPPFLAGS=-I../../include LDFLAGS="-static -L../../lib" LINKFORSHARED=" " MODULE_BUILDTYPE=static --prefix=/usr \
        --disable-shared --disable-test-modules --with-ensurepip=no --without-doc-strings --without-readline \
        --with-openssl=../.. --with-ssl-default-suites=openssl --with-pkg-config=no \
        ZLIB_CFLAGS=-I../../include ZLIB_LIBS=-lz BZIP2_CFLAGS=-I../../include BZIP2_LIBS=-lbz2 \
        LIBLZMA_CFLAGS=-I../../include LIBLZMA_LIBS=-llzma
    make -s "-j$jobs" python libpython3.13.a
    words=$(make -s --eval='words:;@echo libpython3.13.a $(MODLIBS) $(LIBS) $(SYSLIBS)' words)
    for word in $words; do # what lies in this folder comes along; the rest is named by -l
        case $word in
            *.a) cp "$word" "$out/lib/" && echo "lib/${word##*/}" ;;
            -L*) ;;
            *) echo "$word" ;;
        esac
    done >"$out/libraries"
    mkdir "$out/include/python"
    cp -r ../sources/python3.13/Include/. pyconfig.h "$out/include/python"
    cp python "$out/python"
    cp -r ../sources/python3.13/Lib "$out/lib/python3.13"
    mkdir "$out/lib/python3.13/lib-dynload" # an empty one keeps it from complaining
    rm -rf "$out/lib/python3.13/test"
}

for name in zlib bzip2 lzma openssl python; do
    part "$name"
done
rm -rf "$out/work"
say "done"
