"""A model of brakit's Node SDK 0.10.2, which shares our config. It models how the SDK reads the environment and the
config at its start. The model was made by observing the SDK.
"""

from __future__ import annotations

import json
import os
import uuid
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping


def is_on_when_started(config_path: str, environ: Mapping[str, str]) -> bool:
    """Start the SDK, and return whether it would send.

    The SDK replaces an unusable config by a config with telemetry on.
    """
    try:
        with open(config_path, encoding="utf-8") as file:
            content = json.load(file)
        usable = isinstance(content["telemetry"], bool) and bool(content["anonymousId"])
    except (OSError, ValueError, KeyError, TypeError):
        usable, content = False, {}
    if not usable:
        content = {"telemetry": True, "anonymousId": str(uuid.uuid4())}
        os.makedirs(os.path.dirname(config_path), exist_ok=True)
        with open(config_path, "w", encoding="utf-8") as file:
            json.dump(content, file)
    word = environ.get("BRAKIT_TELEMETRY")
    return bool(content["telemetry"]) if word is None else word not in ("false", "0", "off")
