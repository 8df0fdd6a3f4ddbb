"""What `mkdocs build` does to a page: a link to a file outside docs/ works on a checkout, and is plain text on the site."""

import re
from typing import Any


def on_page_markdown(markdown: str, *, page: Any, **_: Any) -> str:
    """Replace the links of a page of docs/ itself that leave the folder."""
    if "/" in page.file.src_uri:
        return markdown
    return re.sub(r"\[([^\]]+)\]\(\.\./[^)]*\)", r"\1", markdown)
