"""amesh demo"""

from __future__ import annotations


def demo() -> None:
    """Show the whole story on this machine.

    Two devices are made in temporary directories, paired and attacked. Everything runs for
    real on localhost: relay, pairing, a FastAPI service. Nothing is left behind.
    """
    from amesh_cli import story

    story.tell()
