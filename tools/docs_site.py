"""What MkDocs asks while it builds the site (``hooks`` in mkdocs.yml).

It adds the pages that the program itself writes, and leads links out of docs/ to the repository.
"""

from __future__ import annotations

import re
import sys
from pathlib import Path, PurePosixPath
from posixpath import normpath
from typing import TYPE_CHECKING

CHECKOUT = Path(__file__).parent.parent
sys.path.insert(0, str(CHECKOUT))  # MkDocs loads this file by its path

from tools.docs_reference import GENERATED  # noqa: E402

if TYPE_CHECKING:
    from mkdocs.config.defaults import MkDocsConfig
    from mkdocs.structure.files import Files
    from mkdocs.structure.pages import Page

LINK = re.compile(r"\]\((?P<target>(?:\.\./)+[^)#\s]+)")


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Adds the pages that nobody writes."""
    from mkdocs.structure.files import File

    for name, make in GENERATED.items():
        files.append(File.generated(config, name, content=make()))
    return files


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """A link that leaves ``docs/`` leads to the repository: scenarios, tests, CONTRIBUTING."""
    repository = config.extra["repository"]
    return LINK.sub(
        lambda link: f"]({repository_url(link['target'], page.file.src_uri, repository)}", markdown
    )


def repository_url(target: str, page: str, repository: str) -> str:
    """``target`` as it is inside ``docs/``, else as the file's address in the repository."""
    path = normpath(str(PurePosixPath("docs") / PurePosixPath(page).parent / target))
    return target if path.startswith("docs/") else f"{repository}/blob/main/{path}"
