#!/bin/sh
# The floor of a metadata boot: three requests by one `curl` over one connection, then as floor.sh.
set -eu
service=http://169.254.169.254
mkdir -p /var/lib/floor/user /var/lib/floor/site
cd /var/lib/floor
curl -sf --connect-timeout 2 -o instance-id "$service/latest/meta-data/instance-id" \
    -o user.tgz "$service/context/user.tgz" -o default.tgz "$service/context/default.tgz"
tar xzf user.tgz -C user
tar xzf default.tgz -C site
exec >>/var/log/floor.log 2>&1
run() { for script in "$1"/*; do "$script" && code=0 || code=$?; echo "${script##*/} $code" >>state; done; }
run user/pre-network.d
run site/pre-network.d
run user/post-network.d
run site/post-network.d
cp instance-id done
