"""Pages of the site that are files of the repository's root: README (the index), CHANGELOG, ...

Their links to `docs/` and those of the pages to them are rewritten. A link to a sound becomes a
player.
"""

from __future__ import annotations

import re
from pathlib import Path

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

ROOT = Path(__file__).resolve().parents[2]
PAGES = {
    "index.md": "README.md",
    "CHANGELOG.md": "CHANGELOG.md",
    "CONTRIBUTING.md": "CONTRIBUTING.md",
    "SECURITY.md": "SECURITY.md",
    "CITATION.cff": "CITATION.cff",
}


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add the pages of the root."""
    for page, source in PAGES.items():
        text = (ROOT / source).read_text(encoding="utf-8")
        if page.endswith(".md"):
            text = re.sub(r"\]\(docs/", "](", text)
        files.append(File.generated(config, page, content=text))
    return files


SOUND = re.compile(r'<a href="([^"]+\.ogg)">([^<]*)</a>')
PLAYER = (
    r'<span style="display: inline-block">\2<br><audio controls preload="none" src="\1"'
    r' aria-label="\2" style="width: 12rem; height: 2.2rem"></audio></span>'
)


def on_page_content(html: str, **_: object) -> str:
    """Players in place of links to sounds, their texts above."""
    return SOUND.sub(PLAYER, html)


def on_page_markdown(markdown: str, page: Page, **_: object) -> str:
    """Links to files of the root become links to their pages."""
    above = "../" * (page.file.src_uri.count("/") + 1)
    for name, source in PAGES.items():
        shorter = above.removesuffix("../") + name
        markdown = markdown.replace(f"]({above}{source}", f"]({shorter}")
    return markdown
