"""How the page looks: one sheet, light and dark, for a screen and for paper.

Each of the three things that are compared has a colour, a mark and a line of its own, so that none
is told by colour alone. Text has a contrast of 4.5 to 1 and more against its ground in both.
"""

from muse.cli.page.markup import Markup

SHEET = Markup(
    """
:root { color-scheme: light dark; --paper: #fbfbf9; --card: #ffffff; --ink: #1a2230;
  --muted: #566072; --line: #dcdfe4; --head: #0a5fbf; --against: #b3470a; --chance: #6b7280;
  --right: #167a3c; --tile: #e6e8ec; --note: #fff4d6; }
@media (prefers-color-scheme: dark) { :root { --paper: #12161d; --card: #1a2029; --ink: #e7eaef;
  --muted: #a5afbd; --line: #323a46; --head: #6db3ff; --against: #ffab66; --chance: #9aa3b0;
  --right: #5fd38a; --tile: #2b323d; --note: #3a3216; } }
* { box-sizing: border-box; }
body { margin: 0; overflow-wrap: break-word; background: var(--paper); color: var(--ink);
  font: 16px/1.5 system-ui, -apple-system, "Segoe UI", Roboto, "DejaVu Sans", sans-serif; }
main { max-width: 74rem; margin: 0 auto; padding: 2rem 1.25rem 4rem; }
:focus-visible { outline: 3px solid var(--head); outline-offset: 2px; }
h1, h2, h3, h4 { overflow-wrap: anywhere; }
h1 { font-size: 1.9rem; line-height: 1.2; margin: 0 0 .25rem; }
h2 { font-size: 1.3rem; margin: 2.75rem 0 .75rem; padding-top: .75rem;
  border-top: 1px solid var(--line); }
h3 { font-size: 1.05rem; margin: 1.75rem 0 .5rem; }
h4 { font-size: .95rem; margin: 0 0 .4rem; font-weight: 600; }
p { margin: .4rem 0; max-width: 46rem; }
.muted, figcaption, caption { color: var(--muted); font-size: .88rem; }
.note { background: var(--note); border-left: 4px solid var(--against); padding: .6rem .9rem;
  margin: 1rem 0; }
dl { display: grid; grid-template-columns: max-content 1fr; gap: .2rem 1.25rem; margin: 1rem 0; }
dt { color: var(--muted); } dd { margin: 0; overflow-wrap: anywhere; }
code { font: .88em ui-monospace, "DejaVu Sans Mono", monospace; overflow-wrap: anywhere; }
.scroll { overflow-x: auto; }
table { border-collapse: collapse; margin: .75rem 0; font-variant-numeric: tabular-nums; }
caption { text-align: left; padding-bottom: .35rem; }
caption span { display: block; position: sticky; left: 0; width: fit-content;
  max-width: min(46rem, calc(100vw - 2.5rem)); }
th, td { padding: .32rem .8rem; text-align: right; border-bottom: 1px solid var(--line); }
th[scope="row"], th:first-child { text-align: left; font-weight: 500; max-width: min(26rem, 40vw);
  overflow-wrap: break-word; }
thead th { color: var(--muted); font-weight: 600; font-size: .85rem; vertical-align: bottom; }
tbody th[scope="row"] { position: sticky; left: 0; background: var(--paper); }
table.words td { text-align: left; overflow-wrap: anywhere; }
tr.group th { font-weight: 600; padding-top: .9rem; }
tr.chance th, tr.chance td { color: var(--muted); }
tr.published th, tr.published td { color: var(--muted); font-style: italic; }
.interval { display: block; color: var(--muted); font-size: .78rem; font-weight: 400;
  white-space: nowrap; }
.finding { font-size: 1.05rem; }
td.best { font-weight: 700; }
figure { margin: 1rem 0; background: var(--card); border: 1px solid var(--line);
  border-radius: 8px; padding: .9rem 1rem; }
figure h3 { margin: 0 0 .3rem; }
svg.chart { display: block; width: 100%; height: auto; max-width: 58rem; }
svg.chart { min-width: 26rem; } svg.wide { min-width: 36rem; }
.pair { display: grid; gap: 1rem;
  grid-template-columns: repeat(auto-fit, minmax(min(28rem, 100%), 1fr)); }
.pair figure { margin: 0; }
.legend { display: flex; flex-wrap: wrap; gap: .2rem 1.2rem; margin: .1rem 0 .5rem; padding: 0;
  list-style: none; font-size: .88rem; }
.legend li { display: flex; align-items: center; gap: .45rem; overflow-wrap: anywhere; }
.legend svg { flex: none; width: 30px; height: 20px; }
svg text { fill: var(--muted); font: 12px system-ui, "Segoe UI", "DejaVu Sans", sans-serif; }
svg text.label, svg text.value { fill: var(--ink); }
.grid { stroke: var(--line); stroke-width: 1; }
.axis { stroke: var(--muted); stroke-width: 1; }
.track { stroke: var(--line); stroke-width: 5; stroke-linecap: round; }
.head { --role: var(--head); } .against { --role: var(--against); }
.chance { --role: var(--chance); }
.curve { fill: none; stroke: var(--role); stroke-width: 2.25; stroke-linejoin: round; }
.curve.against { stroke-dasharray: 7 4; } .curve.chance { stroke-dasharray: 1.5 4; }
.mark { fill: var(--role); stroke: var(--role); stroke-width: 2.25; }
.mark.against { fill: none; }
details { margin: .75rem 0; } summary { cursor: pointer; color: var(--muted); }
.query { background: var(--card); border: 1px solid var(--line); border-radius: 8px;
  padding: .8rem 1rem; margin: .8rem 0; }
.query h3, .query h4 { font-size: .95rem; margin: 0 0 .4rem; }
.query blockquote { margin: .1rem 0 .3rem; font-size: 1.08rem; overflow-wrap: anywhere; }
.finder { margin: .7rem 0 0; font-size: .88rem; font-weight: 600; overflow-wrap: anywhere; }
.finder::before { content: ""; display: inline-block; width: .7rem; height: .7rem;
  margin-right: .45rem; border: 2px solid var(--role); border-radius: 50%; }
.finder.head::before { background: var(--role); }
.answers { display: grid; grid-template-columns: repeat(auto-fill, minmax(min(15rem, 100%), 1fr));
  gap: .8rem; list-style: none; margin: .35rem 0 0; padding: 0; }
.answers li { min-width: 0; font-size: .84rem; color: var(--muted); overflow-wrap: anywhere; }
.film { border: 3px solid transparent; border-radius: 4px; overflow: hidden; line-height: 0;
  background: var(--tile); margin-bottom: .25rem; }
.right .film { border-color: var(--right); } .right .place { color: var(--right); }
.place { font-weight: 600; color: var(--ink); }
.film img { width: 100%; height: auto; display: block; }
.tile { aspect-ratio: 4 / 1; display: flex; align-items: center; justify-content: center;
  line-height: 1.2; padding: .2rem .5rem; text-align: center; }
footer { margin-top: 3rem; }
@media print { body { background: #fff; } figure, .query, tr { break-inside: avoid; } }
"""
)
