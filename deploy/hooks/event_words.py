"""What the notification scripts share: the event on stdin, the settings, one request.

The settings file has lines `name = value`, and only its owner may read it: it holds a secret.
"""

import json
import os
import sys
import urllib.error
import urllib.request

TIMEOUT_S = 8  # sidestream gives a command ten.
TEXT_MAX = 1000


def fail(sentence):
    sys.exit(f"{os.path.basename(sys.argv[0])}: {sentence}")


def settings(*names):
    """The values of these names; a name with a `?` may be missing."""
    if len(sys.argv) != 2:
        fail("name the settings file: it has lines " + ", ".join(f"`{n.rstrip('?')} = ...`" for n in names))
    path, found = sys.argv[1], {}
    try:
        with open(path, encoding="utf-8") as file:
            if os.fstat(file.fileno()).st_mode & 0o077:
                fail(f"{path} holds a secret and others may read it: chmod 600 it")
            for line in file:
                name, mark, value = line.partition("=")
                if mark and not line.lstrip().startswith("#"):
                    found[name.strip()] = value.strip()
    except OSError as error:
        fail(f"{path}: {error.strerror}")
    for name in names:
        if not name.endswith("?") and not found.get(name):
            fail(f"{path} does not say `{name} = ...`")
    return [found.get(name.rstrip("?"), "") for name in names]


def event():
    return json.load(sys.stdin)


def fit(text, size=TEXT_MAX):
    """Text of strangers: no controls but line ends, no direction marks, not too long."""
    text = "".join(c if c == "\n" or c.isprintable() else "\N{REPLACEMENT CHARACTER}" for c in str(text))
    return text if len(text) <= size else text[:size] + "..."


def words(event):
    """A title and a text for a human, and whether it waits for one."""
    kind = event.get("_eventType")
    if kind == "approval-required":
        given = event.get("input") or {}
        shown = given.get("command") or given.get("file_path") or json.dumps(given)
        return fit(f"May it? {event.get('tool', '')}", 100), fit(f"{event.get('title', '')}\n{shown}"), True
    if kind == "prompt-failed":
        return "The turn failed", fit(event.get("error") or event.get("code") or ""), False
    if kind == "prompt-completed":
        title = "Interrupted" if event.get("interrupted") else "The turn is done"
        return title, fit(event.get("result") or ""), False
    if kind == "session-status":
        return "The session failed", fit(event.get("reason") or event.get("workingDir") or ""), False
    return fit(kind, 100), fit(json.dumps(event)), False


class NoRedirect(urllib.request.HTTPRedirectHandler):
    """A redirect would take the secret elsewhere."""

    def redirect_request(self, *_):
        return None


def post(url, body, headers=()):
    """Posts JSON. What is wrong is told without the URL, which may hold a secret."""
    request = urllib.request.Request(url, json.dumps(body).encode(), method="POST")
    request.add_header("Content-Type", "application/json")
    for name, value in headers:
        request.add_header(name, value)
    try:
        urllib.request.build_opener(NoRedirect).open(request, timeout=TIMEOUT_S).read()
    except urllib.error.HTTPError as error:
        fail(f"the service answered {error.code}: {fit(error.read(300).decode(errors='replace'))}")
    except (OSError, ValueError) as error:
        fail(f"the service cannot be reached: {getattr(error, 'reason', error)}")
