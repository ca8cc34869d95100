"""The page's style sheet: one column on a phone, two on a desk, the reader's own choice of light or dark."""

CSS = """
:root { color-scheme: light dark; --paper: #ffffff; --ink: #1f2328; --quiet: #57606a; --line: #d0d7de; --panel: #f6f8fa; --marked: #ddf4e4; --alarm: #a40e26; --alarmed: #fff1f1; }
@media (prefers-color-scheme: dark) {
  :root { --paper: #14171a; --ink: #e6e8ea; --quiet: #a3abb3; --line: #3a4149; --panel: #1d2125; --marked: #17382a; --alarm: #ff9a94; --alarmed: #331a1c; }
}
* { box-sizing: border-box; }
body { margin: 0 auto; max-width: 78rem; padding: 1rem; background: var(--paper); color: var(--ink); font: 1rem/1.5 system-ui, sans-serif; overflow-wrap: anywhere; }
h1 { font-size: 1.4rem; line-height: 1.25; margin: .5rem 0; }
h2 { font-size: 1.15rem; margin: 2.2rem 0 .6rem; border-bottom: 1px solid var(--line); padding-bottom: .25rem; }
h3 { font-size: 1rem; margin: 1rem 0 .4rem; }
.answer { font-size: 1.15rem; margin: .8rem 0; }
.alarm { border-left: 4px solid var(--alarm); background: var(--alarmed); padding: .6rem .9rem; margin: 1rem 0; }
.alarm h2 { border: 0; margin: 0 0 .3rem; padding: 0; color: var(--alarm); font-size: 1rem; }
.alarm ul { margin: 0; }
ul { padding-left: 1.1rem; }
.quiet, figcaption { color: var(--quiet); font-size: .875rem; }
.scroll { overflow-x: auto; margin: .8rem 0; border: 1px solid var(--line); border-radius: 6px; }
table { border-collapse: collapse; width: 100%; font-size: .875rem; font-variant-numeric: tabular-nums; overflow-wrap: normal; }
th, td { padding: .4rem .6rem; text-align: right; white-space: nowrap; border-bottom: 1px solid var(--line); }
thead th { background: var(--panel); font-weight: 600; }
tbody tr:last-child > * { border-bottom: 0; }
th[scope=row], .word { text-align: left; }
th[scope=row] { font-weight: 600; position: sticky; left: 0; background: var(--paper); white-space: normal; min-width: 8.5rem; max-width: 12rem; }
thead th:first-child { position: sticky; left: 0; text-align: left; }
tr.marked > * { background: var(--marked); }
.plots { display: grid; grid-template-columns: repeat(auto-fit, minmax(min(100%, 20rem), 1fr)); gap: 1.5rem 2rem; align-items: start; }
figure { margin: 0; min-width: 0; }
figure svg { display: block; width: 100%; max-width: 27rem; height: auto; }
svg * { stroke-linejoin: round; stroke-linecap: butt; }
.album { list-style: none; margin: .6rem 0 1.4rem; padding: 0; display: grid; grid-template-columns: repeat(auto-fill, minmax(6.25rem, 1fr)); gap: .75rem; }
.album p { margin: .25rem 0 0; font-size: .8125rem; line-height: 1.35; }
.album img { display: block; image-rendering: pixelated; border-radius: 4px; }
.facts { columns: 22rem; column-gap: 2rem; margin: 0; }
.facts div { break-inside: avoid; padding: .2rem 0; border-bottom: 1px solid var(--line); }
.facts dt { color: var(--quiet); font-size: .875rem; }
.facts dd { margin: 0; }
:focus-visible { outline: 2px solid currentColor; outline-offset: 2px; }
@media print { .scroll { overflow: visible; } }
"""
