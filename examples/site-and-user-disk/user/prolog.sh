#!/bin/sh
# The user's first script: no network yet. It runs as the user's account, in a folder of the user's own.
set -eu

case "$1" in
start) echo "user: $(id -un) works in $CONTEXTAGENT_CONTEXT_DIR" ;;
stop) echo "user: good-bye" ;;
esac
