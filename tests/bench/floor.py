"""The floor in Python: the same work as floor.sh with the library's usual modules, and nothing else."""

import os
import subprocess
import tarfile

STATE = "/var/lib/floor"

os.makedirs(STATE)
with open("/seed/instance-id") as file:
    instance = file.read()
with tarfile.open("/seed/default.tgz") as bundle:
    bundle.extractall(STATE)
with open("/var/log/floor.log", "a") as log, open(f"{STATE}/state", "a") as state:
    for phase in ("pre-network.d", "post-network.d"):
        for owner in ("/seed/user", STATE):
            for name in sorted(os.listdir(f"{owner}/{phase}")):
                code = subprocess.call([f"{owner}/{phase}/{name}"], stdout=log, stderr=log)
                print(name, code, file=state, flush=True)
with open(f"{STATE}/done", "w") as file:
    file.write(instance)
