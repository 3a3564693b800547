#!/bin/sh
# First thing of the site at boot, last thing at stop: note where this machine runs.
# Everything is written below the current folder, which is the site's own.
set -eu

case "$1" in
start)
    mkdir -p run
    printf 'machine=%s\nphase=%s\n' "$(uname -n)" "$CONTEXTAGENT_PHASE" >run/site-marker
    echo "site: machine $(uname -n) is ours"
    ;;
stop)
    rm -f run/site-marker
    echo "site: machine $(uname -n) is given back"
    ;;
esac
