"""Run what bench/ has, or the modules named as arguments: `python -m bench request nonces`."""

from __future__ import annotations

import pkgutil
import sys
from importlib import import_module

import bench
from bench.report import Row, show


def main(names: list[str]) -> int:
    """Show every module's rows; 1 if a goal is not met."""
    known = [module.name for module in pkgutil.iter_modules(bench.__path__)]
    known.remove("__main__")
    unknown = [name for name in names if name not in known]
    if unknown:
        print(f"error: no benchmark named {', '.join(unknown)}", file=sys.stderr)
        print(f"hint: there are {', '.join(known)}", file=sys.stderr)
        return 2
    met = True
    for name in names or known:
        # Only what is asked for: some need a package of an extra.
        module = import_module(f"bench.{name}")
        if not hasattr(module, "run"):
            continue  # what the others share
        rows: list[Row] = module.run()
        show((module.__doc__ or name).partition("\n")[0].removesuffix("."), rows)
        met = met and all(row.met is not False for row in rows)
    return 0 if met else 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
