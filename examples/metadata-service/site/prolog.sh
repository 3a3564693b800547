#!/bin/sh
# A bundle comes by network, so this runs late: after the network came up, and before everything of that phase.
set -eu

case "$1" in
start)
    mkdir -p run
    date -u >run/since
    echo "site: machine is ours, context from $CONTEXTAGENT_SOURCE"
    ;;
stop)
    rm -f run/since
    echo "site: machine is given back"
    ;;
esac
