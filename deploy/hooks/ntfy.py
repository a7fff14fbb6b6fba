#!/usr/bin/env python3
"""Tells ntfy (https://ntfy.sh, or a server of your own) of a sidestream event.

    --on-event approval-waiting,turn-done "/usr/share/sidestream/hooks/ntfy.py /etc/sidestream/ntfy"

Settings: url = https://ntfy.example, topic = ..., and token = tk_... where the topic needs one.
Whoever can read the topic can answer what its buttons answer: make it one that nobody guesses.
"""

from event_words import event, post, settings, words

url, topic, token = settings("url", "topic", "token?")
it = event()
title, text, waits = words(it)
body = {"topic": topic, "title": title, "message": text or title, "priority": 4 if waits else 3}
if it.get("url"):
    body["click"] = it["url"]
body["actions"] = [
    {"action": "http", "label": label, "url": it[name], "method": "POST", "clear": True}
    for label, name in (("Allow", "allowUrl"), ("Deny", "denyUrl"))
    if it.get(name)
]
post(url.rstrip("/") + "/", body, [("Authorization", f"Bearer {token}")] if token else [])
