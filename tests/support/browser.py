"""A headless Chromium that is spoken to by its own debugging protocol over a WebSocket."""

from __future__ import annotations

import asyncio
import base64
import itertools
import json
import shutil
import subprocess
import time
from contextlib import asynccontextmanager
from pathlib import Path

import aiohttp

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
FLAGS = ("--headless", "--no-sandbox", "--disable-gpu", "--hide-scrollbars", "--mute-audio", "--no-first-run",
         "--disable-dev-shm-usage", "--disable-background-networking", "--remote-debugging-port=0")  # fmt: skip


class Navigated(Exception):
    """A page went before it answered."""


class Tab:
    """One page."""

    def __init__(self, connection):
        self._connection, self._numbers = connection, itertools.count(1)
        self.said = []
        """What the browser reported: console messages, exceptions and requests."""

    async def call(self, method, **parameters):
        """A method of the protocol; its result."""
        number = next(self._numbers)
        await self._connection.send_json({"id": number, "method": method, "params": parameters})
        while True:
            message = json.loads((await self._connection.receive(timeout=30)).data)
            if message.get("id") == number:
                if "navigated" in message.get("error", {}).get("message", ""):
                    raise Navigated(message)
                assert "error" not in message, message
                return message["result"]
            self.said.append(message)

    async def value(self, expression):
        """The value of a JavaScript expression."""
        told = await self.call("Runtime.evaluate", expression=expression, returnByValue=True, awaitPromise=True)
        assert "exceptionDetails" not in told, told
        return told["result"].get("value")

    async def until(self, expression, seconds=15):
        """Wait until a JavaScript expression holds."""
        end = time.monotonic() + seconds
        while not await self._holds(expression):
            assert time.monotonic() < end, f"{expression} did not come to hold; the page says: " + str(
                await self.value("document.body?.innerText")
            )
            await asyncio.sleep(0.1)

    async def _holds(self, expression):
        try:
            return await self.value(expression)
        except Navigated:  # the page that was asked gives way to the next one
            return False

    async def size(self, width, height, *, phone=False):
        """Size of the window in CSS pixels."""
        await self.call(
            "Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=1, mobile=phone
        )

    async def press(self, key, code):
        """Press and let go a key."""
        text = {"text": "\r"} if key == "Enter" else {}
        for kind in ("keyDown", "keyUp"):
            await self.call("Input.dispatchKeyEvent", type=kind, key=key, windowsVirtualKeyCode=code, **text)

    async def screenshot(self, path):
        """Write what is seen, the whole page long."""
        told = await self.call("Page.captureScreenshot", format="png", captureBeyondViewport=True)
        Path(path).write_bytes(base64.b64decode(told["data"]))

    def events(self, method):
        """Parameters of the reports of one kind."""
        return [message["params"] for message in self.said if message.get("method") == method]


@asynccontextmanager
async def opened(url, profile, *, width=1440, height=900):
    """A browser that shows `url`."""
    call = [CHROMIUM, *FLAGS, f"--user-data-dir={profile}", "about:blank"]
    process = subprocess.Popen(call, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        port_file, end = Path(profile) / "DevToolsActivePort", time.monotonic() + 40
        while not (port_file.is_file() and port_file.read_text().count("\n")) and time.monotonic() < end:
            await asyncio.sleep(0.05)
        port = port_file.read_text().splitlines()[0]
        async with aiohttp.ClientSession() as session:
            targets = await (await session.get(f"http://127.0.0.1:{port}/json/list")).json()
            address = next(target["webSocketDebuggerUrl"] for target in targets if target["type"] == "page")
            async with session.ws_connect(address, max_msg_size=64 << 20) as connection:
                tab = Tab(connection)
                for domain in ("Page", "Runtime", "Network", "Log"):
                    await tab.call(f"{domain}.enable")
                await tab.size(width, height)
                await tab.call("Page.navigate", url=url)
                await tab.until("location.href !== 'about:blank' && document.readyState === 'complete'")
                yield tab
                await tab.call("Browser.close")  # removes the socket that it has in the temporary folder
        process.wait(10)
    finally:
        process.terminate()
        process.wait(10)
