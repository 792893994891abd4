"""Pieces of a self-contained HTML page: every text is escaped here and nowhere else."""

from __future__ import annotations

import base64
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from html import escape
from urllib.parse import quote

# Nothing is loaded and nothing runs, whatever gets into the page.
_POLICY = "default-src 'none'; img-src data:; style-src 'unsafe-inline'"

_STYLE = """
:root { color-scheme: light; --ink: #1d2529; --grey: #5b666c; --line: #dfe4e6; --pale: #f5f7f7;
  --good: #1b6e3c; --warn: #8a5200; --bad: #a3211b; --accent: #1c5d7d; }
* { box-sizing: border-box; }
body { margin: 0; background: #fff; color: var(--ink);
  font: 16px/1.5 system-ui, -apple-system, "Segoe UI", "DejaVu Sans", sans-serif; }
main { max-width: 60rem; margin: 0 auto; padding: 1.5rem 1rem 3rem; }
h1 { font-size: 1.6rem; line-height: 1.25; margin: 0 0 .3rem; overflow-wrap: anywhere; }
h2 { font-size: 1.1rem; margin: 2.2rem 0 .6rem; padding-bottom: .25rem;
  border-bottom: 1px solid var(--line); }
p { margin: .4rem 0; overflow-wrap: anywhere; }
.lead { color: var(--grey); }
.badge { display: inline-block; padding: .1rem .6rem; border-radius: 1rem; font-size: .85rem;
  font-weight: 600; color: #fff; background: var(--grey); margin: 0 .35rem .5rem 0; }
.good { background: var(--good); } .warn { background: var(--warn); }
.bad { background: var(--bad); }
.cards { display: grid; grid-template-columns: repeat(auto-fit, minmax(8.5rem, 1fr)); gap: .6rem;
  margin: 1.2rem 0; padding: 0; }
.cards div { background: var(--pale); border-radius: .5rem; padding: .7rem .8rem; }
.cards dt { color: var(--grey); font-size: .8rem; }
.cards dd { margin: 0; font-size: 1.35rem; font-weight: 600; line-height: 1.3; }
.cards dd small { display: block; font-size: .78rem; font-weight: 400; color: var(--grey); }
table { border-collapse: collapse; width: 100%; font-size: .93rem; }
th, td { text-align: left; padding: .38rem .6rem .38rem 0; vertical-align: top;
  border-bottom: 1px solid var(--line); overflow-wrap: anywhere; }
th { color: var(--grey); font-weight: 600; font-size: .82rem; }
td:first-child, th:first-child { min-width: 6.5rem; }
.num { text-align: right; font-variant-numeric: tabular-nums; white-space: nowrap; }
.swatch { display: inline-block; width: .85em; height: .85em; border-radius: 2px;
  border: 1px solid #0003; margin-right: .45em; vertical-align: -.08em; }
.yes, .no { color: var(--good); font-weight: 600; white-space: nowrap; } .no { color: var(--bad); }
figure { margin: .8rem 0; } figure img { max-width: 100%; height: auto; display: block; }
figure.pixels img { image-rendering: pixelated; min-width: min(100%, 18rem);
  max-height: 32rem; width: auto; border: 1px solid var(--line); }
figcaption { color: var(--grey); font-size: .85rem; margin-top: .3rem; }
a { color: var(--accent); } ul { padding-left: 1.2rem; margin: .4rem 0; }
footer { margin-top: 2.5rem; color: var(--grey); font-size: .85rem; overflow-wrap: anywhere; }
"""


@dataclass(frozen=True)
class Markup:
    """Finished HTML; everything else that is put into a page is text and gets escaped."""

    html: str


def text(value: object) -> str:
    """HTML of a value: markup as it is, anything else escaped."""
    return value.html if isinstance(value, Markup) else escape(str(value))


def page(title: str, parts: Iterable[Markup]) -> str:
    """A whole HTML document."""
    body = "\n".join(part.html for part in parts)
    return (
        '<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        f'<meta http-equiv="Content-Security-Policy" content="{_POLICY}">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>{text(title)}</title>\n<style>{_STYLE}</style>\n</head>\n"
        f"<body>\n<main>\n{body}\n</main>\n</body>\n</html>\n"
    )


def element(name: str, *content: object, kind: str = "") -> Markup:
    """An element around texts and markup; ``kind`` is its class."""
    attribute = f' class="{kind}"' if kind else ""
    return Markup(f"<{name}{attribute}>{''.join(text(c) for c in content)}</{name}>")


def table(head: Sequence[str], rows: Iterable[Sequence[object]], numbers: int = 0) -> Markup:
    """A table whose last ``numbers`` columns are figures."""
    first = len(head) - numbers

    def row(tag: str, cells: Sequence[object]) -> str:
        return "<tr>" + "".join(
            element(tag, cell, kind="num" if k >= first else "").html
            for k, cell in enumerate(cells)) + "</tr>"

    lines = "".join(row("td", cells) for cells in rows)
    return Markup(f"<table><thead>{row('th', head)}</thead><tbody>{lines}</tbody></table>")


def cards(pairs: Iterable[tuple[str, object, str]]) -> Markup:
    """Key figures: name, value, and a few words below."""
    return Markup('<dl class="cards">' + "".join(
        f"<div><dt>{text(name)}</dt><dd>{text(value)}<small>{text(note)}</small></dd></div>"
        for name, value, note in pairs) + "</dl>")


def picture(png: bytes, alt: str, caption: object, kind: str = "") -> Markup:
    """A PNG inside the page."""
    data = base64.b64encode(png).decode()
    image = Markup(f'<img alt="{text(alt)}" src="data:image/png;base64,{data}">')
    return element("figure", image, element("figcaption", caption), kind=kind)


def link(path: str) -> Markup:
    """A link to a file beside the page."""
    return Markup(f'<a href="./{text(quote(path))}">{text(path)}</a>')


def swatch(colour: tuple[int, int, int]) -> Markup:
    """A small square of a colour."""
    style = "background:#{:02x}{:02x}{:02x}".format(*colour)
    return Markup(f'<span class="swatch" style="{style}"></span>')
