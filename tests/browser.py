"""A real Chromium without a window, driven over WebDriver: plain JSON over HTTP, so that the tests need no package for it."""

from __future__ import annotations

import base64
import io
import json
import os
import re
import shutil
import subprocess
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

DRIVER, BROWSER = shutil.which("chromedriver"), shutil.which("chromium") or shutil.which("google-chrome")
MISSING = (
    None if DRIVER and BROWSER else "chromium and chromedriver are not installed (apt-get install chromium-driver)"
)
_ARGUMENTS = ("--headless=new", "--disable-gpu", "--hide-scrollbars", "--force-device-scale-factor=1")


class Browser:
    """One page at a time. What a page asked the network for, and what its console said, is kept by the browser."""

    def __init__(self, address: str) -> None:
        self._address = address
        arguments = [*_ARGUMENTS, *(["--no-sandbox"] if os.geteuid() == 0 else [])]
        wanted = {
            "browserName": "chrome",
            "goog:chromeOptions": {"binary": BROWSER, "args": arguments},
            "goog:loggingPrefs": {"browser": "ALL", "performance": "ALL"},
        }
        self._session = ""
        self._session = (
            "/session/" + self._ask("POST", "/session", {"capabilities": {"alwaysMatch": wanted}})["sessionId"]
        )

    def open(self, page: Path, width: int, height: int, dark: bool = False) -> None:
        """Shows a file at a size in CSS pixels, to a reader who prefers dark pages or light ones."""
        size = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": width < 600}
        scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
        self.devtools("Emulation.setDeviceMetricsOverride", size)
        self.devtools("Emulation.setEmulatedMedia", {"features": [scheme]})
        self.logs("browser"), self.logs("performance")
        self._ask("POST", "/url", {"url": page.resolve().as_uri()})

    def run(self, script: str) -> Any:
        """What the JavaScript returns. It runs from outside: the page's own policy does not stop it."""
        return self._ask("POST", "/execute/sync", {"script": script, "args": []})

    def devtools(self, command: str, parameters: dict[str, Any]) -> Any:
        """A command of the Chrome DevTools Protocol."""
        return self._ask("POST", "/goog/cdp/execute", {"cmd": command, "params": parameters})

    def logs(self, kind: str) -> list[dict[str, Any]]:
        """Entries since the last call, of the console (``browser``) or of the network (``performance``)."""
        found: list[dict[str, Any]] = self._ask("POST", "/se/log", {"type": kind})
        return found

    def requests(self) -> list[str]:
        """Addresses asked for since the page was opened, itself included; data: addresses ask nobody."""
        events = [json.loads(entry["message"])["message"] for entry in self.logs("performance")]
        asked = [
            event["params"]["request"]["url"] for event in events if event["method"] == "Network.requestWillBeSent"
        ]
        return [url for url in asked if not url.startswith("data:")]

    def picture(self, selector: str | None = None, to: Path | None = None) -> np.ndarray:
        """Pixels uint8 ``[H, W, 3]`` of the whole page, or of the first element that the CSS selector finds."""
        where = f"document.querySelector({json.dumps(selector)})" if selector else "document.documentElement"
        box = self.run(
            f"const b = {where}.getBoundingClientRect();"
            "return {x: b.x + scrollX, y: b.y + scrollY, width: b.width, height: b.height, scale: 1}"
        )
        shot = self.devtools("Page.captureScreenshot", {"clip": box, "captureBeyondViewport": True})
        raw = base64.b64decode(shot["data"])
        if to is not None:
            to.write_bytes(raw)
        return np.asarray(Image.open(io.BytesIO(raw)).convert("RGB"))

    def close(self) -> None:
        """Ends the browser."""
        self._ask("DELETE", "", None)

    def _ask(self, method: str, path: str, body: dict[str, Any] | None) -> Any:
        data = None if body is None else json.dumps(body).encode()
        request = urllib.request.Request(self._address + self._session + path, data, method=method)
        try:
            with urllib.request.urlopen(request, timeout=120) as answer:
                return json.load(answer)["value"]
        except urllib.error.HTTPError as error:
            raise RuntimeError(json.load(error)["value"]["message"]) from error


@contextmanager
def browser() -> Iterator[Browser]:
    """A browser and its driver, both ended afterwards."""
    assert DRIVER is not None
    driver = subprocess.Popen([DRIVER, "--port=0"], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
    try:
        assert driver.stdout is not None
        port = next(
            found[1] for line in driver.stdout if (found := re.search(r"started successfully on port (\d+)", line))
        )
        opened = Browser(f"http://127.0.0.1:{port}")
        try:
            yield opened
        finally:
            opened.close()
    finally:
        driver.terminate()
        driver.wait(10)
