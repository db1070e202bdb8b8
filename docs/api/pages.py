"""Makes the pages of docs/api and of the files at the root; a hook of mkdocs.yml, run by `make docs`.

A page for each room, with every public module in it, found by walking the tree: a module that is moved, added or
deleted needs no change here. Code is read, never imported.
"""

import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from mkdocs.config.defaults import MkDocsConfig
    from mkdocs.structure.files import Files
    from mkdocs.structure.pages import Page

ROOT = Path(__file__).parents[2]
PACKAGE = "cotune"
INDEX = "api/index.md"
# Files at the root that are pages too, and what they are called in the site.
ABOVE = {
    "README.md": "index.md",
    "CONTRIBUTING.md": "CONTRIBUTING.md",
    "SECURITY.md": "SECURITY.md",
    "CHANGELOG.md": "CHANGELOG.md",
    "LICENSE": "LICENSE",
}
_NO_ROOM = {"tests", "benchmarks"}
_LINK = re.compile(r"(?<=\]\()([^)#\s]+)")


def rooms(root: Path = ROOT) -> list[str]:
    """Names of the packages right under the root, in alphabetical order."""
    return sorted(path.parent.name for path in root.glob("*/__init__.py") if path.parent.name not in _NO_ROOM)


def public_modules(folder: Path) -> list[str]:
    """Dotted names below `folder` of the modules whose names do not begin with an underscore, in order.

    A package stands before its modules; `folder` itself is left out.
    """
    names = set()
    for path in folder.rglob("*.py"):
        parts = path.relative_to(folder).with_suffix("").parts
        parts = parts[:-1] if parts[-1] == "__init__" else parts
        if parts and not any(part.startswith("_") for part in parts):
            names.add(".".join(parts))
    return sorted(names)


def pages(root: Path = ROOT) -> dict[str, str]:
    """The Markdown of each page, by its path below docs/."""
    made = {INDEX: _index(root)}
    above = sorted(path.stem for path in root.glob("*.py") if not path.stem.startswith("_"))
    made[f"api/{PACKAGE}.md"] = _page(PACKAGE, "open to all rooms", [f"{PACKAGE}.{name}" for name in above])
    for room in rooms(root):
        made[f"api/{room}.md"] = _page(
            f"{PACKAGE}.{room}", room, [f"{PACKAGE}.{room}.{name}" for name in public_modules(root / room)]
        )
    return made


def _index(root: Path) -> str:
    lines = [f"- [{room}]({room}.md)" for room in rooms(root)]
    return "\n".join(
        [
            "# Modules",
            "",
            "Made from the docstrings of the code, a page for each room. What a room is for, and which rooms it may",
            "import: [architecture.md](../architecture.md).",
            "",
            f"- [open to all rooms]({PACKAGE}.md): errors, files, spelling",
            *lines,
            "",
        ]
    )


def _page(package: str, title: str, modules: list[str]) -> str:
    head = f"# {title}\n\n::: {package}\n    options:\n      show_root_heading: false\n      members: false\n"
    return head + "".join(f"\n::: {module}\n" for module in modules)


def on_config(config: "MkDocsConfig") -> None:
    """Adds the rooms' pages to the navigation, behind that of their list."""
    _add(config.nav or [], [page for page in pages() if page != INDEX])


def _add(nav: list[Any], rooms: list[str]) -> None:
    if INDEX in nav:
        nav += rooms
    for entry in nav:
        for below in entry.values() if isinstance(entry, dict) else ():
            if isinstance(below, list):
                _add(below, rooms)


def on_files(files: "Files", config: "MkDocsConfig") -> "Files":
    """Adds what stands outside of docs/."""
    from mkdocs.structure.files import File

    for name, target in ABOVE.items():
        files.append(File.generated(config, target, content=(ROOT / name).read_text(encoding="utf-8")))
    for target, text in pages().items():
        files.append(File.generated(config, target, content=text))
    return files


def on_page_markdown(markdown: str, page: "Page", config: "MkDocsConfig", files: "Files") -> str:
    """Turns links that hold in the repository into links that hold in the site."""
    return _LINK.sub(lambda found: _moved(found[1], page.file.src_uri), markdown)


def _moved(link: str, source: str) -> str:
    """`link` in the page `source`, both as in the repository, as the site has it."""
    if source in ABOVE.values():
        return ABOVE.get(link, link.removeprefix("docs/"))
    if "/" not in source and link.startswith("../"):
        return ABOVE.get(link.removeprefix("../"), link)
    return link
