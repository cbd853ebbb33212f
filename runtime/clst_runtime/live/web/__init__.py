"""The live web page of `clst-run` for machines without a screen, and its figures for Prometheus.

`open_web` is all that a command needs; aiohttp and prometheus_client come with the extra `web` and are imported then.
"""

from __future__ import annotations

from clst_runtime.live.web.address import WebAddress, parse_web_address
from clst_runtime.live.web.run_info import RunInfo
from clst_runtime.live.web.sink import WebCamera, WebSink, open_web

__all__ = ["RunInfo", "WebAddress", "WebCamera", "WebSink", "open_web", "parse_web_address"]
