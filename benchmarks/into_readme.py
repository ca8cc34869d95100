"""Puts a table that ``fer-bench --markdown`` wrote between the markers in README.md; ``make readme`` runs both."""

from __future__ import annotations

import sys
from pathlib import Path

BEGIN, END = "<!-- results:begin -->", "<!-- results:end -->"

table, readme = Path(sys.argv[1]), Path(__file__).parents[1] / "README.md"
text = readme.read_text(encoding="utf-8")
before, rest = text.split(BEGIN)
after = rest.split(END)[1]
readme.write_text(f"{before}{BEGIN}\n{table.read_text(encoding='utf-8')}{END}{after}", encoding="utf-8")
