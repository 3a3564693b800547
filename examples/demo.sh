#!/bin/sh
# A whole boot from a real context disk, below a folder of its own: nothing of this machine is changed.
# usage: demo.sh [PATH-OF-CONTEXTAGENT]
set -eu
here=$(cd "$(dirname "$0")" && pwd)
agent=${1:-contextagent}
command -v "$agent" >/dev/null || { echo "demo: cannot run '$agent': not found" >&2; exit 1; }
place=$(mktemp -d "${TMPDIR:-/tmp}/contextagent-demo.XXXXXX")
trap 'rm -rf "$place"' EXIT
root=$place/machine
mkdir "$root"

say() { printf '\n\033[1m%s\033[0m\n' "$*"; }
[ -t 1 ] || say() { printf '\n## %s\n' "$*"; }
short() { sed "s#$place#DEMO#g; s#$here#examples#g"; }
run() { printf '$ contextagent %s\n' "$*" | short; "$agent" "$@" | short; }

say "1. A site's and a user's folder become a context disk (a real ISO)"
run lint "$here/site-and-user-disk"
run pack "$here/site-and-user-disk" -o "$place/context.iso" --label CONTEXT

say "2. What a boot with it would do: user before site, each step with its digest and rights"
run plan --disk "$place/context.iso" --root "$root"

say "3. The boot: before the network, after it, and the machine's end"
run run pre-network --disk "$place/context.iso" --root "$root"
run run post-network --root "$root"
run run stop --root "$root"

say "4. What came out, and why"
run status --root "$root"
run explain --root "$root"

say "5. The proof: a chained trace, verified; one changed byte is found"
run trace verify "$root"/var/log/contextagent/trace-*.jsonl
sed '3s/"owner":"[a-z]*"/"owner":"elsewhere"/' "$root"/var/log/contextagent/trace-*.jsonl >"$place/forged.jsonl"
run trace verify "$place/forged.jsonl" || true

say "6. The time-line"
run analyze --root "$root"
printf '\nEverything was below %s, which is removed now.\n' "$place"
