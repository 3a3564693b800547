#!/bin/sh
# User data that is a script: it runs once, after the network came up and before the site's scripts.
set -eu

mkdir -p work
date -u >work/started
echo "user data: started"
