"""The views of a face on which peers are compared."""

from __future__ import annotations

from fer_bench.corruptions.views import View

# column of the table: the views whose accuracies are averaged in it
VIEWS: dict[str, tuple[View, ...]] = {
    "zoom 0.85": (View(zoom=0.85),),
    "zoom 1.15": (View(zoom=1.15),),
    "zoom 1.3": (View(zoom=1.3),),
    "rotation ±15°": (View(degrees=-15), View(degrees=15)),
}
