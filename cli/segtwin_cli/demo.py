"""`segtwin demo`: a page on this machine, to try images."""

from __future__ import annotations

import click
from segtwin_engines.installed import require

from segtwin_cli.terminal import echo, quiet_option


@click.command()
@click.option("--port", type=click.IntRange(1, 65535), help="Of 127.0.0.1; by default the first free one from 7860 on.")
@click.option("--open", "open_browser", is_flag=True, help="Show it in the browser.")
@quiet_option
def demo(port: int | None, open_browser: bool, quiet: bool) -> int:
    """Serve a page to this machine alone: drop an image, choose weights and engines, and see their
    masks side by side, their difference and their timings. Ctrl-C ends it."""
    require("demo", purpose="demo")
    from segtwin_engines.demo_page import serve

    blocks, address = serve(port, block=False, open_browser=open_browser)
    if not quiet:
        echo(f"{address} (Ctrl-C ends it)")
    blocks.block_thread()
    return 0
