#!/usr/bin/env python3
"""Tells a Telegram chat of a sidestream event, through a bot of yours.

    --on-event approval-waiting,turn-done "/usr/share/sidestream/hooks/telegram.py /etc/sidestream/telegram"

Settings: token = 123:ABC... (from @BotFather), chat = the chat's number.
The buttons open the page that shows what is asked; its own button answers.
"""

from event_words import event, post, settings, words

token, chat, api = settings("token", "chat", "api?")
it = event()
title, text, _ = words(it)
# No parse_mode: the text is text, whatever is in it.
body = {"chat_id": chat, "text": f"{title}\n\n{text}".strip(), "link_preview_options": {"is_disabled": True}}
buttons = [
    {"text": label, "url": it[name]}
    for label, name in (("Allow", "allowUrl"), ("Deny", "denyUrl"), ("Open", "url"))
    if it.get(name)
]
if buttons:
    body["reply_markup"] = {"inline_keyboard": [buttons]}
post(f"{api or 'https://api.telegram.org'}/bot{token}/sendMessage", body)
