#!/bin/bash
# build.sh [OUT]: build the packages of both flavours into OUT (dist/), and print their paths.  NUMBER, where it is set,
# is their version instead of the tree's.
#
# el5: gzip and MD5, which is all that the rpm of EL5 can read, and SysV scripts alone.  el6: gzip and SHA-256, for EL6 to
# EL10, the last of which refuse MD5; with systemd units.  The same tree gives the same packages.
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
project=$(cd "$here/../.." && pwd)
out=${1:-$project/dist}
number=${NUMBER:-$(sed -n 's/^__version__ = "\(.*\)"$/\1/p' "$project/contextagent/__init__.py")}
export LC_ALL=C TZ=UTC SOURCE_DATE_EPOCH=${SOURCE_DATE_EPOCH:-1700000000}
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT

program=$("$here/interpreter/build.sh")
mkdir -p "$out"
for flavour in el5 el6; do
    case $flavour in
        el5) digest=1 ;; # MD5
        *) digest=8 ;;   # SHA-256
    esac
    rpmbuild -bb --quiet --target "$(uname -m)-linux" \
        --define "_topdir $work/$flavour" --define "_rpmdir $work/packages" \
        --define "_build_name_fmt %%{NAME}-%%{VERSION}-%%{RELEASE}.%%{ARCH}.rpm" --define "_buildhost localhost" \
        --define "use_source_date_epoch_as_buildtime 1" --define "clamp_mtime_to_source_date_epoch 1" \
        --define "_binary_payload w9.gzdio" --define "_binary_filedigest_algorithm $digest" \
        --define "project $project" --define "program $program" --define "number $number" \
        --define "flavour $flavour" --define "epoch_s $SOURCE_DATE_EPOCH" \
        "$here/contextagent.spec" >&2
done
for package in "$work"/packages/*.rpm; do
    install -m 0644 "$package" "$out"
    echo "$out/${package##*/}"
done
