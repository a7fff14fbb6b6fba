#!/usr/bin/env python3
"""Tells a Gotify server of a sidestream event.

    --on-event approval-waiting,turn-done "/usr/share/sidestream/hooks/gotify.py /etc/sidestream/gotify"

Settings: url = https://gotify.example, token = the application's.
A tap opens the session; the links to allow and to deny stand in the text, and ask once more.
"""

from event_words import event, post, settings, words

url, token = settings("url", "token")
it = event()
title, text, waits = words(it)
lines = [text] + [
    f"{label}: {it[name]}" for label, name in (("Allow", "allowUrl"), ("Deny", "denyUrl")) if it.get(name)
]
body = {"title": title, "message": "\n\n".join(filter(None, lines)) or title, "priority": 8 if waits else 5}
body["extras"] = {"client::display": {"contentType": "text/plain"}}
if it.get("url"):
    body["extras"]["client::notification"] = {"click": {"url": it["url"]}}
post(url.rstrip("/") + "/message", body, [("X-Gotify-Key", token)])
