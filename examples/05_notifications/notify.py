"""A hook that posts one message to a webhook. It needs nothing but Python.

    [hooks]
    after_cutover = [["python3", "notify.py"]]

The address comes from the environment (EMBEDMIGRATE_WEBHOOK), where it is no part of a
configuration that is committed. What is posted is {"text": …}, which Slack, Mattermost and
Rocket.Chat take as it is, with the data of the hook beside it for programs.
"""

from __future__ import annotations

import json
import os
import sys
import urllib.error
import urllib.request
from typing import Any

VARIABLE = "EMBEDMIGRATE_WEBHOOK"
TIMEOUT_SECONDS = 10


def main() -> int:
    data = json.load(sys.stdin)
    address = os.environ.get(VARIABLE, "")
    if not address.startswith(("http://", "https://")):
        print(f"{VARIABLE} is no address of a webhook", file=sys.stderr)
        return 1
    request = urllib.request.Request(
        address,
        data=json.dumps({"text": message(data), "embedmigrate": data}).encode(),
        headers={"Content-Type": "application/json"},
    )
    try:
        with urllib.request.urlopen(request, timeout=TIMEOUT_SECONDS):
            return 0
    except urllib.error.HTTPError as error:
        print(f"the webhook answered {error.code}", file=sys.stderr)
    except OSError as error:  # never with the address: it is a secret
        reason = getattr(error, "reason", error)
        print(f"the webhook does not answer: {type(reason).__name__}", file=sys.stderr)
    return 1


def message(data: dict[str, Any]) -> str:
    """One line a person can act on; a second one with the command to type, where there is one."""
    collection = data["collection"] or "embedmigrate"
    if (error := data["error"]) is not None:
        what = "its model has drifted" if data["event"] == "on_drift" else "failed"
        said = error.get("found") if data["event"] == "on_drift" else error["message"]
        lines = [f"{collection}: {what} (status {error['exit_code']}): {said or error['message']}"]
        if error.get("next_step"):
            lines.append(f"next: {error['next_step']}")
        return "\n".join(lines)
    old, new = (
        end["model"] and end["model"].partition("@")[0] for end in (data["from"], data["to"])
    )
    what = {
        "after_cutover": f"{new or 'nothing'} is live now, before it {old or 'nothing'}",
        "on_rollback": f"went back from {old or 'nothing'} to {new or 'nothing'}",
        "on_ready": f"{new} is ready to be cut over",
        "on_start": f"begins to embed with {new}",
    }[data["event"]]
    counts = data["counts"]
    figures = f" ({counts['done']} documents, {counts['skipped']} skipped)" if counts else ""
    why = f": {data['reason']}" if data["reason"] else ""
    return (
        f"{collection}: {what}{figures}{why}; by {data['actor']}, generation {data['generation']}"
    )


if __name__ == "__main__":
    sys.exit(main())
