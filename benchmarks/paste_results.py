"""Puts a table that a command wrote between the markers of a name on each page named: ``paste_results.py NAME TABLE PAGE...``."""

from __future__ import annotations

import sys
from pathlib import Path

name, written, *pages = sys.argv[1:]
begin, end = f"<!-- {name}:begin -->", f"<!-- {name}:end -->"
for page in map(Path, pages):
    before, rest = page.read_text(encoding="utf-8").split(begin)
    after = rest.split(end)[1]
    page.write_text(f"{before}{begin}\n{Path(written).read_text(encoding='utf-8')}{end}{after}", encoding="utf-8")
