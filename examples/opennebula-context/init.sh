#!/bin/sh
# Named in INIT_SCRIPTS, so it runs once there is a network.
# Variables of context.sh are in the environment; the file itself lies in this folder, too.
set -eu

echo "init: machine $VMID at $ETH0_IP"
