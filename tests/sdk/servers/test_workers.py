"""What a command line says of the number of processes."""

from __future__ import annotations

import pytest

from amesh_sdk.workers import announced_workers


@pytest.mark.parametrize(
    ("command", "count"),
    [
        ("/venv/bin/uvicorn app:app --workers 4", 4),
        ("/venv/lib/uvicorn/__main__.py app:app --workers=4", 4),
        ("gunicorn -w 3 app:app", 3),
        ("gunicorn -w3 app:app", 3),
        ("/venv/lib/gunicorn/__main__.py --workers 3 app:app", 3),
        ("hypercorn app:app -w 2", 2),
        ("granian --interface asgi --workers 2 app:app", 2),
        ("fastapi run --workers 2", 2),
        ("uvicorn.exe app:app --workers 2", 2),
        ("uvicorn app:app", 1),
        ("uvicorn app:app --workers 1", 1),
        ("uvicorn app:app --workers", 1),
        ("uvicorn app:app --workers many", 1),
        ("python app.py --workers 8", 1),  # whatever that means there
        ("pytest -w 8", 1),
    ],
)
def test_the_command_line(command: str, count: int) -> None:
    assert announced_workers(command.split(" "), {}) == count


@pytest.mark.parametrize(
    ("command", "count"),
    [
        ("uvicorn app:app", 5),
        ("gunicorn app:app", 5),
        ("uvicorn app:app --workers 1", 1),  # the command line wins, as it does there
        ("hypercorn app:app", 1),  # these do not read it
        ("granian app:app", 1),
        ("python app.py", 1),
    ],
)
def test_the_variable_of_uvicorn_and_gunicorn(command: str, count: int) -> None:
    assert announced_workers(command.split(" "), {"WEB_CONCURRENCY": "5"}) == count


def test_no_command_line_at_all() -> None:
    assert announced_workers([], {"WEB_CONCURRENCY": "5"}) == 1
