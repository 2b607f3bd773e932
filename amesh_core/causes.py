"""What may have changed a part of a request, guessed from how it differs.

Each function gets a part as it was signed and as it arrived, and returns a sentence: what
happened, and what mends it. The first that fits is said, so the narrow ones come first.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Sequence
from typing import Final
from urllib.parse import parse_qsl, unquote_to_bytes

from amesh_core.sighting import Body, Form

_NO_BODY: Final = Body.of(b"")


def of_method(sent: str, seen: str) -> str:
    """What may have made the method `seen` of the method `sent`."""
    match sent, seen:
        case "HEAD", "GET":
            return (
                "a cache or server answers HEAD with the head of a GET: switch that off "
                "(nginx: proxy_cache_convert_head off)"
            )
        case "POST", "GET":
            return (
                "a redirect (301, 302, 303) that was followed made it a GET, so call the URL it "
                "leads to; or a proxy sets the method (nginx: proxy_method)"
            )
        case one, other if one.upper() == other.upper():
            return "the method is written in another case: it is signed in capitals"
        case _:
            return "something rewrites the method: a method-override header, a gateway, a rewrite"


def of_path(sent: str, seen: str) -> str:
    """What may have made the path `seen` of the path `sent`."""
    decoded = _unquoted(sent)
    for is_it, cause in _PATH_CAUSES:
        if is_it(sent, seen):
            return cause.format(prefix=_prefix(sent, seen) or _prefix(seen, sent))
    plain, theirs = _merged(decoded), _merged(_unquoted(seen))
    if plain == theirs:
        return f"it was decoded and its slashes merged; {_KEEP}"
    if prefix := _prefix(plain, theirs):
        return f"it was decoded, and {prefix} taken off; {_KEEP}"
    return f"it was rewritten; {_KEEP}"


_KEEP: Final = (
    "let the proxy pass the path as it is (nginx: proxy_pass without a path, not even a slash)"
)
_PathTest = Callable[[str, str], bool]
_PATH_CAUSES: Final[Sequence[tuple[_PathTest, str]]] = (
    (
        lambda sent, seen: sent.rstrip("/") == seen.rstrip("/"),
        "a slash at the end was added or taken off: call the URL as the application has it",
    ),
    (
        lambda sent, seen: bool(_prefix(sent, seen)),
        "the prefix {prefix} was taken off on the way: let the proxy pass it on (nginx: "
        "proxy_pass without a path), or tell the server (uvicorn --root-path {prefix})",
    ),
    (
        lambda sent, seen: bool(_prefix(seen, sent)),
        "the prefix {prefix} was put in front: by a proxy, or by a root path that the server "
        "was told of though no proxy takes it off",
    ),
    (
        lambda sent, seen: _merged(sent) == _merged(seen),
        f"slashes that follow each other were merged; {_KEEP}",
    ),
    (
        lambda sent, seen: _upper(sent) == _upper(seen),
        f"percent-encodings are spelled in another case (%2f, %2F); {_KEEP}",
    ),
    (
        lambda sent, seen: (
            "/" in _unquoted(sent)[len("/") :]
            and _unquoted(sent).count("/") > sent.count("/")
            and _unquoted(sent) == _unquoted(seen)
        ),
        f"%2F was decoded to a slash; {_KEEP}",
    ),
    (
        lambda sent, seen: _unquoted(sent) == _unquoted(seen),
        f"percent-encodings were decoded or encoded; {_KEEP}",
    ),
    (
        lambda sent, seen: _unquoted(seen) == sent,
        f"it was encoded a second time; {_KEEP}",
    ),
    (
        lambda sent, seen: sent.lower() == seen.lower(),
        "capitals were changed: a file system, or a proxy that ignores case",
    ),
    (
        lambda sent, seen: re.sub(";[^/]*", "", sent) == seen,
        "what follows a semicolon was cut off: path parameters, by a Java gateway for example",
    ),
)


def _prefix(longer: str, shorter: str) -> str:
    """What stands before `shorter` in `longer`, whole segments; empty if nothing does."""
    if shorter == "/" and len(longer) > 1:
        return longer.rstrip("/")
    if shorter.startswith("/") and longer.endswith(shorter) and longer != shorter:
        return longer[: -len(shorter)]
    return ""


def _unquoted(path: str) -> str:
    return unquote_to_bytes(path).decode("latin-1")


def _merged(path: str) -> str:
    return re.sub("/+", "/", path)


def _upper(path: str) -> str:
    return re.sub("%[0-9a-fA-F]{2}", lambda found: found[0].upper(), path)


def of_query(sent: str, seen: str) -> str:
    """What may have made the query `seen` of `sent`, both in the one spelling that is signed."""
    if not seen:
        return "the query was dropped on the way, or signed though it is not sent"
    if not sent:
        return "a query was added after signing: put params into the URL before it is signed"
    ours = Counter(parse_qsl(sent, keep_blank_values=True))
    theirs = Counter(parse_qsl(seen, keep_blank_values=True))
    lost, new = ours - theirs, theirs - ours
    names = ", ".join(sorted({name for name, _ in lost | new}))
    if not lost and not new:
        return "values of the same name changed their order, which is signed"
    if _every(lost, lambda text: text.replace("+", " ")) == new:
        return f"a plus sign became a space in {names}: %2B was decoded once too often"
    if _every(lost, lambda text: unquote_to_bytes(text).decode("utf-8", "replace")) == new:
        return f"{names} was decoded twice on the way"
    if _every(new, lambda text: unquote_to_bytes(text).decode("utf-8", "replace")) == lost:
        return f"{names} was encoded a second time on the way"
    if not lost:
        return f"parameters were added after signing: {names}"
    if not new and not any(value for _, value in lost):
        return f"parameters without a value were dropped: {names}"
    if not new:
        return f"parameters were dropped on the way: {names}"
    return f"parameters were changed on the way: {names}"


def _every(
    parameters: Counter[tuple[str, str]], change: Callable[[str], str]
) -> Counter[tuple[str, str]]:
    changed: Counter[tuple[str, str]] = Counter()
    for (name, value), times in parameters.items():
        changed[change(name), change(value)] += times
    return changed


def of_body(sent: Body, seen: Body) -> str:
    """What may have made the body `seen` of the body `sent`."""
    if seen.sha256 == _NO_BODY.sha256:
        return (
            "no body arrived: a redirect or a proxy dropped it, or something in front of the "
            "middleware had read it already"
        )
    if sent.sha256 == _NO_BODY.sha256:
        return "it was signed without its body: sign the very bytes that are sent"
    if sent.sha256 == seen.forms.get(Form.GZIP):
        return "it was compressed after signing: compress first, sign the compressed bytes"
    if seen.sha256 == sent.forms.get(Form.GZIP):
        return "it was unpacked on the way: verify before anything decodes Content-Encoding"
    for form, cause in _SAME_FORM.items():
        if form in sent.forms and sent.forms[form] == seen.forms.get(form):
            return cause
    if seen.sha256 == sent.forms.get(Form.TEXT):
        return (
            "bytes that are not UTF-8 were replaced: something on the way takes the body for "
            "text; verify the raw bytes"
        )
    if sent.length_bytes == seen.length_bytes:
        return "bytes were changed in place; the length is the same"
    return "other bytes arrived than were signed: sign exactly what is sent, after encoding it"


_SAME_FORM: Final = {
    Form.LINES: (
        "only line ends differ: one at the end of a file, or text that was converted "
        "(curl -d @file drops them, --data-binary does not)"
    ),
    Form.JSON: (
        "the same JSON in another spelling: it was parsed and written anew; sign the bytes "
        "that are sent, and verify before anything parses the body"
    ),
}
