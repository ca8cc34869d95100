"""Puts a table that ``fer-bench --markdown`` wrote between the markers of each page named; ``make figures`` runs both."""

from __future__ import annotations

import sys
from pathlib import Path

BEGIN, END = "<!-- results:begin -->", "<!-- results:end -->"

table, *pages = map(Path, sys.argv[1:])
for page in pages:
    before, rest = page.read_text(encoding="utf-8").split(BEGIN)
    after = rest.split(END)[1]
    page.write_text(f"{before}{BEGIN}\n{table.read_text(encoding='utf-8')}{END}{after}", encoding="utf-8")
