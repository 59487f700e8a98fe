"""The page in a browser: it loads nothing, reports no error, fits a phone, and its tables sort and filter.

Chromium is driven over its own pipe (DevTools protocol); without it these tests are skipped.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import ebmsim
from ebmsim.report.html import page

_CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
pytestmark = [
    pytest.mark.skipif(_CHROMIUM is None, reason="no Chromium is installed"),
    pytest.mark.xdist_group("browser"),
]
FLAGS = (
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--remote-debugging-pipe",
)


class Browser:
    """One page of a headless browser; `events` are those it sent."""

    def __init__(self, profile: Path) -> None:
        from_us, self._out = os.pipe()
        self._in, to_us = os.pipe()
        # The browser reads commands from descriptor 3 and writes to 4.
        script = f'exec "$@" 3<&{from_us} 4>&{to_us}'
        self._process = subprocess.Popen(
            ["bash", "-c", script, "bash", str(_CHROMIUM), *FLAGS, f"--user-data-dir={profile}", "about:blank"],
            pass_fds=(from_us, to_us),
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        os.close(from_us)
        os.close(to_us)
        self._count, self._rest, self._session = 0, b"", ""
        self.events: list[dict[str, Any]] = []
        target = self.send("Target.createTarget", url="about:blank")["targetId"]
        self._session = self.send("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        for domain in ("Page", "Runtime", "Log", "Network"):
            self.send(f"{domain}.enable")

    def send(self, method: str, **parameters: Any) -> Any:
        """The result of a command."""
        self._count += 1
        message = {"id": self._count, "method": method, "params": parameters}
        message |= {"sessionId": self._session} if self._session else {}
        os.write(self._out, json.dumps(message).encode() + b"\0")
        while True:
            answer = self._read()
            if answer.get("id") == self._count:
                assert "error" not in answer, answer
                return answer["result"]
            self.events.append(answer)

    def _read(self) -> dict[str, Any]:
        while b"\0" not in self._rest:
            more = os.read(self._in, 1 << 16)
            assert more, "the browser ended"
            self._rest += more
        message, _, self._rest = self._rest.partition(b"\0")
        found: dict[str, Any] = json.loads(message)
        return found

    def open(self, file: Path, width: int = 1280, scheme: str = "light", media: str = "screen") -> None:
        """Load a page and wait until it is there."""
        size = {"width": width, "height": 900, "deviceScaleFactor": 1, "mobile": False}
        self.send("Emulation.setDeviceMetricsOverride", **size)
        feature = {"name": "prefers-color-scheme", "value": scheme}
        self.send("Emulation.setEmulatedMedia", media=media, features=[feature])
        self.events.clear()
        self.send("Page.navigate", url=file.as_uri())
        while not any(event["method"] == "Page.loadEventFired" for event in self.events):
            self.events.append(self._read())

    def evaluate(self, script: str) -> Any:
        """The value of an expression in the page."""
        found = self.send("Runtime.evaluate", expression=script, returnByValue=True)
        assert "exceptionDetails" not in found, found
        return found["result"].get("value")

    def press(self, key: str, code: int, text: str = "") -> None:
        """Press and release a key."""
        more = {"key": key, "code": key, "windowsVirtualKeyCode": code}
        self.send("Input.dispatchKeyEvent", type="keyDown", **more, **({"text": text} if text else {}))
        self.send("Input.dispatchKeyEvent", type="keyUp", **more)

    def close(self) -> None:
        """End the browser."""
        self._process.terminate()
        self._process.wait(30)
        os.close(self._out)
        os.close(self._in)


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    made = Browser(tmp_path_factory.mktemp("profile"))
    yield made
    made.close()


@pytest.fixture(scope="module")
def file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("page") / "report.html"
    w = ebmsim.load_workload("ebm_cvr", "small")
    path.write_text(page(ebmsim.estimate(w, ebmsim.load_hardware("rtx5090")), w, "ebmsim report"), encoding="utf-8")
    return path


SCREENS = pytest.mark.parametrize(
    ("width", "scheme"), [(width, scheme) for width in (1280, 390, 320) for scheme in ("light", "dark")]
)


@SCREENS
def test_no_error_and_nothing_loaded(browser: Browser, file: Path, width: int, scheme: str) -> None:
    browser.open(file, width, scheme)
    wrong = ("Runtime.exceptionThrown", "Runtime.consoleAPICalled", "Log.entryAdded")
    assert not [event for event in browser.events if event["method"] in wrong]
    asked = [e["params"]["request"]["url"] for e in browser.events if e["method"] == "Network.requestWillBeSent"]
    assert [url for url in asked if not url.startswith("data:")] == [file.as_uri()]


@SCREENS
def test_nothing_overflows(browser: Browser, file: Path, width: int, scheme: str) -> None:
    browser.open(file, width, scheme)
    assert browser.evaluate("document.documentElement.scrollWidth") <= width
    # Where a table is wider, its box scrolls, and only there.
    wider = browser.evaluate(
        "[...document.querySelectorAll('body *')].filter((e) => e.getBoundingClientRect().right > innerWidth + 1"
        " && !e.closest('.scroll, .picture')).map((e) => e.tagName + e.id)"
    )
    assert wider == []


def test_dark_is_dark_and_paper_is_light(browser: Browser, file: Path) -> None:
    ground = "getComputedStyle(document.body).backgroundColor"
    expected = {("light", "screen"): 255, ("dark", "screen"): 18, ("dark", "print"): 255}
    for (scheme, media), grey in expected.items():
        browser.open(file, 1280, scheme, media)
        assert browser.evaluate(ground) == f"rgb({grey}, {grey}, {grey})"
    assert browser.evaluate("getComputedStyle(document.querySelector('nav')).display") == "none"


VISIBLE = "[...document.querySelectorAll('#kernels-table tbody tr')].filter((r) => !r.hidden)"


def column(browser: Browser, number: int) -> list[Any]:
    """What the visible kernels have in a column: exact numbers, or texts."""
    cells = f"{VISIBLE}.map((r) => r.cells[{number}])"
    return list(
        browser.evaluate(
            f"{cells}.map((c) => {{const d = c.querySelector('data'); return d ? +d.value : c.textContent}})"
        )
    )


def test_every_column_sorts_by_keyboard(browser: Browser, file: Path) -> None:
    browser.open(file)
    buttons = "document.querySelectorAll('#kernels-table thead button')"
    columns = browser.evaluate(f"{buttons}.length")
    assert columns == 11 and len(column(browser, 0)) == 25
    browser.evaluate("document.querySelector('.controls button').click()")
    rows = len(column(browser, 0))
    assert rows == browser.evaluate("JSON.parse(document.getElementById('estimate').textContent).work.kernels") > 100
    seen = f"[...{buttons}].map((b) => b.parentElement.getAttribute('aria-sort'))"
    assert browser.evaluate(seen) == [None, "descending", *[None] * 9]
    for number in range(columns):
        browser.evaluate(f"{buttons}[{number}].focus()")
        orders = []
        for _ in range(2):
            browser.press("Enter", 13, "\r")
            order = browser.evaluate(seen)[number]
            found = column(browser, number)
            assert len(found) == rows
            if isinstance(found[0], float | int):
                assert found == sorted(found, reverse=order == "descending")
            else:
                collated = "(a, b) => a.localeCompare(b, 'en', {numeric: true})"
                again = browser.evaluate(f"{json.dumps(found)}.sort({collated})")
                assert found == (again[::-1] if order == "descending" else again)
            orders.append(order)
        assert sorted(orders) == ["ascending", "descending"]
        assert [order for order in browser.evaluate(seen) if order] == [orders[-1]]


def test_the_filter_takes_all_words(browser: Browser, file: Path) -> None:
    browser.open(file, 390)
    browser.evaluate("document.querySelector('.controls input').focus()")
    browser.send("Input.insertText", text="Convolution  backward")
    found = list(zip(column(browser, 4), column(browser, 6), strict=True))
    assert found and set(found) == {("backward-input", "convolution")}
    status = browser.evaluate("document.querySelector('[role=status]').textContent")
    assert status.startswith(f"{len(found)} of ")
    browser.evaluate("document.querySelector('.controls input').select()")
    browser.send("Input.insertText", text="no such kernel")
    assert column(browser, 0) == [] and browser.evaluate("document.querySelector('.controls button').hidden")


def test_the_first_key_skips_to_the_answer(browser: Browser, file: Path) -> None:
    browser.open(file)
    browser.press("Tab", 9)
    assert browser.evaluate("document.activeElement.className") == "skip"
    assert browser.evaluate("document.activeElement.getBoundingClientRect().top") >= 0
    browser.press("Enter", 13, "\r")
    assert browser.evaluate("location.hash") == "#answer"


def test_controls_are_named(browser: Browser, file: Path) -> None:
    browser.open(file)
    browser.send("Accessibility.enable")
    nodes = browser.send("Accessibility.getFullAXTree")["nodes"]
    named = [(n["role"]["value"], n.get("name", {}).get("value", "")) for n in nodes if not n["ignored"]]
    roles = {"button", "link", "searchbox", "table", "image", "img", "region", "group", "columnheader", "navigation"}
    assert not [role for role, name in named if role in roles and not name]
    assert [name for role, name in named if role == "searchbox"] == ["Filter"]
    assert len([role for role, _ in named if role == "table"]) >= 11
