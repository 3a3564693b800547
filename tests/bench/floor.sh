#!/bin/sh
# The floor: what the work costs with nothing but a POSIX shell and tar.  No limits, no confinement, no trace.
set -eu
read -r instance </seed/instance-id
mkdir -p /var/lib/floor
tar xzf /seed/default.tgz -C /var/lib/floor
exec >>/var/log/floor.log 2>&1
run() { for script in "$1"/*; do "$script" && code=0 || code=$?; echo "${script##*/} $code" >>/var/lib/floor/state; done; }
run /seed/user/pre-network.d
run /var/lib/floor/pre-network.d
run /seed/user/post-network.d
run /var/lib/floor/post-network.d
echo "$instance" >/var/lib/floor/done
