"""Headless Chromium over its debugging pipe: JSON between NUL bytes on file descriptors 3 and 4.

The DevTools protocol without a driver, a port or a dependency.
"""

from __future__ import annotations

import base64
import json
import os
import shlex
import shutil
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
FLAGS = (
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-dev-shm-usage",
    "--disable-background-networking",
    "--disable-component-update",
    "--no-first-run",
    "--hide-scrollbars",
    # A request that slipped through could not leave: nowhere to go, nobody to ask.
    "--proxy-server=127.0.0.1:9",
    "--host-resolver-rules=MAP * ~NOTFOUND",
    "--remote-debugging-pipe",
)
ANSWER_WITHIN_S = 40.0


def find_chromium() -> str | None:
    """The browser's path, if there is one."""
    return next((path for name in NAMES if (path := shutil.which(name))), None)


@contextmanager
def shown(path: Path) -> Iterator[Page]:
    """The page at 1280 px, drawn and unfolded.

    Without a browser the test is skipped, or fails where nothing may be.
    """
    binary = find_chromium()
    if binary is None:
        if os.environ.get("GPUYARD_NO_SKIPS", "0") != "0":
            pytest.fail("GPUYARD_NO_SKIPS is set, and there is no Chromium")
        pytest.skip(f"no Chromium on this machine: {path.name} was not opened in a browser")
    with browser(binary, path.parent / "profile") as page:
        page.look(1280)
        page.open(path)
        page.wait_for("document.documentElement.dataset.drawn === 'light'")
        page.unfold()
        yield page


class Page:
    """One tab, and everything it said: console messages, exceptions, requests."""

    def __init__(self, to_browser: int, from_browser: int) -> None:
        self._write, self._read = to_browser, from_browser
        self._buffer = b""
        self._last_id = 0
        self._session = ""
        self.complaints: list[str] = []
        self.requests: list[str] = []

    def attach(self) -> None:
        """Open the tab and listen to it."""
        target = self.send("Target.createTarget", url="about:blank")["targetId"]
        self._session = self.send("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        for domain in ("Page", "Runtime", "Log", "Network"):
            self.send(f"{domain}.enable")

    def send(self, method: str, **params: Any) -> Any:
        """Call a method of the protocol and return its result."""
        self._last_id += 1
        message = {"id": self._last_id, "method": method, "params": params}
        if self._session:
            message["sessionId"] = self._session
        os.write(self._write, json.dumps(message).encode() + b"\0")
        deadline = time.monotonic() + ANSWER_WITHIN_S
        while time.monotonic() < deadline:
            answer = self._next()
            if answer.get("id") == self._last_id:
                assert "error" not in answer, f"{method}: {answer['error']}"
                return answer["result"]
            self._note(answer)
        raise TimeoutError(f"{method}: no answer within {ANSWER_WITHIN_S} s")

    def _next(self) -> dict[str, Any]:
        while b"\0" not in self._buffer:
            part = os.read(self._read, 1 << 16)
            if not part:
                raise EOFError("Chromium closed its pipe")
            self._buffer += part
        message, _, self._buffer = self._buffer.partition(b"\0")
        loaded: dict[str, Any] = json.loads(message)
        return loaded

    def _note(self, event: dict[str, Any]) -> None:
        params = event.get("params", {})
        match event.get("method"):
            case "Runtime.consoleAPICalled" if params["type"] in ("error", "warning", "assert"):
                self.complaints.append(str([arg.get("value") for arg in params["args"]]))
            case "Runtime.exceptionThrown":
                self.complaints.append(json.dumps(params["exceptionDetails"])[:500])
            case "Log.entryAdded" if params["entry"]["level"] in ("error", "warning"):
                self.complaints.append(params["entry"]["text"])
            case "Network.requestWillBeSent":
                self.requests.append(params["request"]["url"])

    def look(self, width: int, *, dark: bool = False, height: int = 900) -> None:
        """Pretend to be a screen of this width, in this colour scheme."""
        self.send(
            "Emulation.setDeviceMetricsOverride",
            width=width,
            height=height,
            deviceScaleFactor=1,
            mobile=width < 600,
        )
        self.send("Emulation.setTouchEmulationEnabled", enabled=width < 600)
        scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
        self.send("Emulation.setEmulatedMedia", features=[scheme])

    def open(self, path: Path) -> None:
        """Load a file and wait until the page's script has drawn."""
        self.send("Page.navigate", url=path.as_uri())
        self.wait_for("document.readyState === 'complete'")

    def unfold(self) -> None:
        """Open every section, and wait for what is drawn only then."""
        self.value("document.querySelectorAll('section > details').forEach(one => { one.open = true; })")
        self.wait_for(
            "[...document.querySelectorAll('.plot')].every(plot => plot.querySelector('.main-svg'))"
        )

    def wait_for(self, condition: str) -> None:
        """Wait until a JavaScript expression is true."""
        deadline = time.monotonic() + ANSWER_WITHIN_S
        while not self.value(condition):
            assert time.monotonic() < deadline, f"never true: {condition}; {self.complaints}"
            time.sleep(0.05)

    def value(self, expression: str) -> Any:
        """A JavaScript expression's value."""
        answer = self.send("Runtime.evaluate", expression=expression, returnByValue=True, awaitPromise=True)
        assert "exceptionDetails" not in answer, answer["exceptionDetails"]
        return answer["result"].get("value")

    def screenshot(self, path: Path) -> None:
        """The whole page as PNG, for people."""
        shot = self.send("Page.captureScreenshot", captureBeyondViewport=True)
        path.write_bytes(base64.b64decode(shot["data"]))


@contextmanager
def browser(binary: str, profile: Path) -> Iterator[Page]:
    """A running Chromium with one tab, ended with the block."""
    browser_reads, we_write = os.pipe()
    we_read, browser_writes = os.pipe()
    command = shlex.join([binary, *FLAGS, f"--user-data-dir={profile}", "about:blank"])
    # The pipe's ends must be descriptors 3 and 4: a shell puts them there.
    process = subprocess.Popen(
        ["/bin/bash", "-c", f"exec {command} 3<&{browser_reads} 4>&{browser_writes}"],
        pass_fds=(browser_reads, browser_writes),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    os.close(browser_reads)
    os.close(browser_writes)
    try:
        page = Page(we_write, we_read)
        page.attach()
        yield page
    finally:
        os.close(we_write)
        os.close(we_read)
        # A closed pipe ends Chromium, which then removes its own children.
        try:
            process.wait(timeout=10)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
