#!/bin/sh
# Whole boots, from a real context disk, from a metadata service and with a pilot, below a folder of its own: nothing of
# this machine is changed.
# usage: demo.sh [PATH-OF-CONTEXTAGENT]
set -eu
here=$(cd "$(dirname "$0")" && pwd)
agent=${1:-contextagent}
command -v "$agent" >/dev/null || { echo "demo: cannot run '$agent': not found" >&2; exit 1; }
place=$(mktemp -d "${TMPDIR:-/tmp}/contextagent-demo.XXXXXX")
service= watch=
trap 'kill $service $watch 2>/dev/null; wait; rm -rf "$place"' EXIT
root=$place/machine
mkdir "$root" "$place/other"

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

say "7. Without a disk: a metadata service gives the site's bundle, and the user's data"
printf '$ contextagent serve examples/metadata-service --bind 127.0.0.1:0 &\n'
mkfifo "$place/listening"
"$agent" serve "$here/metadata-service" --bind 127.0.0.1:0 >"$place/listening" 2>"$place/requests" &
service=$!
read -r line <"$place/listening" || { cat "$place/requests" >&2; exit 1; }
echo "$line" | short
url=$(echo "$line" | sed 's#.* at \(http://[^ ]*\).*#\1#')

say "8. Another boot: late scripts first, then user before site; the site's word is the last"
run plan --disk none --metadata "$url" --root "$place/other"
run run --disk none --metadata "$url" --root "$place/other"
run explain --root "$place/other"
echo "\$ what each script said, in the order of the trace:"
"$agent" status --root "$place/other" --format json | sed -n 's/^ *"output": "\(.*\)",*$/\1/p' | while read -r output; do
    cat "$place/other$output"
done

say "9. Its time-line, and what the service was asked: three requests for a whole boot, and three for the plan"
run analyze --root "$place/other"
sed 's/^[^ ]* //' "$place/requests"

say "10. A machine that lives: features for its pilot, an end that moves, a code that says why it ended"
mkdir -p "$place/living/etc/contextagent"
echo "watch: {http: 127.0.0.1:8253}" >"$place/living/etc/contextagent/policy.yaml" # the port is 253, and root's, elsewhere
run run --disk "$here/pilot" --metadata none --root "$place/living"
run features show --root "$place/living"
run features check --as panda --root "$place/living"
run drain --in 7200 --root "$place/living" 2>/dev/null
run remaining --format json --root "$place/living"
printf '$ contextagent watch --root DEMO/living &\n'
"$agent" watch --root "$place/living" 2>"$place/watched" &
watch=$!
until "$agent" pilot status --root "$place/living" | grep -q ended; do sleep 0.2; done
run features check --as dirac --root "$place/living" || true
run pilot status --root "$place/living"
until [ -e "$place/living/etc/joboutputs/shutdown_message" ]; do sleep 0.2; done
echo "\$ what is in the job outputs now:"
(cd "$place/living/etc/joboutputs" && for output in work.log shutdown_message; do echo "$output: $(cat $output)"; done)
kill $watch && wait $watch && watch=
run run stop --root "$place/living"

say "11. A boot with all rights, on a throw-away view of this machine: what it would have changed"
if [ "$(id -u)" = 0 ]; then
    run simulate "$place/context.iso" --user-data "$here/metadata-service/user-data" |
        sed -n '1p; /^would have changed/,/^$/p; /as it was$/p'
else
    echo "left out: only root can have such a view (contextagent simulate --help)"
fi
printf '\nEverything was below %s, which is removed now.\n' "$place"
