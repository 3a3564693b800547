#!/bin/sh
# First thing of the site with a network, and next to last at stop.
# Exit 100 would refuse the pilot and nothing else; any other failure would make the boot fail.
set -eu

case "$1" in
start)
    test -s run/site-marker
    echo "site: ready for the pilot"
    ;;
stop)
    echo "site: no pilot any more"
    ;;
esac
