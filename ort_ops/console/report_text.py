"""Write text from models and files as JSON that strict readers take."""

from __future__ import annotations

import json


def json_text(value: object) -> str:
    r"""Return the value as JSON, indented by two spaces; text that is not Unicode is escaped twice.

    >>> print(json_text(["\x1b", "\udcff"]))
    [
      "\u001b",
      "\\udcff"
    ]
    """
    return json.dumps(_unicode(value), indent=2, allow_nan=False)


def _unicode(value: object) -> object:
    if isinstance(value, str):
        return value.encode("utf-8", "backslashreplace").decode()
    if isinstance(value, dict):
        return {_unicode(key): _unicode(item) for key, item in value.items()}
    return [_unicode(item) for item in value] if isinstance(value, list | tuple) else value
