"""Make two devices in ./devices and pair them: python pair.py CONTROLLER TARGET

The ceremony is the one of production. Only, both screens are ours here, so this script carries
the code and the digits from one to the other.
"""

import os
import re
import subprocess
import sys
from pathlib import Path


def start(device: Path, *arguments: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        ["amesh", *arguments],
        env=os.environ | {"AUTH_MESH_DIR": str(device)},
        stdin=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def wait_for(pattern: str, process: subprocess.Popen[str]) -> tuple[str, ...]:
    said = ""
    for line in process.stderr or ():
        said += line
        if found := re.search(pattern, line):
            return found.groups()
    sys.exit(said)


def main(controller: Path, target: Path) -> None:
    for device in (controller, target):
        made = subprocess.run(
            ["amesh", "init", "--name", device.name, "--backend", "encrypted-file"],
            env=os.environ | {"AUTH_MESH_DIR": str(device)},
        )
        if made.returncode:
            sys.exit(made.returncode)
    with start(target, "listen", "--serve", "127.0.0.1:0", "--digits-stdin") as listen:
        code, relay = wait_for(r"amesh invite (\d{6}) --relay (\S+)", listen)
        with start(controller, "invite", code, "--relay", relay, "--assume-match") as invite:
            (digits,) = wait_for(r"digits (\d{3} \d{3})", invite)
            _, said = listen.communicate(digits + "\n")
            if listen.returncode or invite.wait():
                sys.exit(said)


if __name__ == "__main__":
    here = Path("devices")
    main(here / sys.argv[1], here / sys.argv[2])
