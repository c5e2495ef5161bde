"""What mkdocs does not know by itself: the README is the first page, and links into the repository lead into the site.

On GitHub pages of docs/ link to files above them, and the README into docs/; here all of them lie in one folder.
"""

import re
from pathlib import Path
from typing import Any

from mkdocs.structure.files import File

ROOT = Path(__file__).parents[1]
PAGES = {"README.md": "index.md"} | {
    name: name for name in ("CONTRIBUTING.md", "CHANGELOG.md", "SECURITY.md", "CODE_OF_CONDUCT.md")
}
INTO_DOCS = re.compile(r"(\]\(|\bsrc=\"|\bsrcset=\")docs/")
ABOVE_DOCS = re.compile(r"(\]\()\.\./")
LINKED = re.compile(r"\]\((?:\.\./)?((?:action\.yml|LICENSE|(?:examples|src|benchmarks)/)[^)#\s]*)")


def on_files(files: Any, config: Any) -> Any:
    """Add the pages above docs/, and every file of the repository that a page links."""
    texts = [path.read_text(encoding="utf-8") for path in sorted((ROOT / "docs").glob("*.md"))]
    for name, uri in PAGES.items():
        text = (ROOT / name).read_text(encoding="utf-8")
        texts.append(text)
        files.append(File.generated(config, uri, content=text))
    for linked in sorted({found for text in texts for found in LINKED.findall(text)}):
        # Shown as they are: a page of its own would be in no menu.
        uri = linked.replace(".md", ".md.txt")
        files.append(File.generated(config, uri, content=(ROOT / linked).read_text(encoding="utf-8")))
    return files


def on_page_markdown(markdown: str, **_: Any) -> str:
    """Links as they are inside the site."""
    inside = ABOVE_DOCS.sub(r"\1", INTO_DOCS.sub(r"\1", markdown)).replace("](README.md", "](index.md")
    return LINKED.sub(lambda found: found.group().replace(".md", ".md.txt"), inside)
