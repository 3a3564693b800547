#!/bin/sh
# A whole boot from a real ISO, below a throw-away folder: nothing on this machine is changed.
# usage: examples/demo.sh [CONTEXTAGENT]
set -eu
examples=$(cd "$(dirname "$0")" && pwd)
agent=$(command -v "${1:-contextagent}")
trial=$(mktemp -d)
trap 'rm -rf "$trial"' EXIT

say() { printf '\n== %s\n' "$*"; }
show() { # print a command as one would type it, and run it on the trial's machine
    printf '\n$ contextagent %s\n' "$*" | sed "s#$trial/##g; s#$examples/#examples/#g"
    "$agent" --root "$trial/machine" "$@" </dev/null
}

say "a site's and a user's folder, as people write them, become a disk"
(cd "$examples/site-and-user-disk" && find . -type f | sort)
show lint "$examples/site-and-user-disk"
show pack "$examples/site-and-user-disk" -o "$trial/context.iso"

say "what a boot would do with it"
show plan --disk "$trial/context.iso"

say "the boot: before the network, after it, and the machine's stop"
show run pre-network --disk "$trial/context.iso"
show run post-network --disk "$trial/context.iso"
show run stop --disk "$trial/context.iso"

say "what came out, why, and where the time went"
show status
show explain
show analyze

say "the proof"
show trace verify
show receipt
