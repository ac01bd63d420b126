#include "tools/report/page.h"

#include <string_view>

#include <fmt/format.h>

#include "tools/report/charts.h"

namespace chorale::tools {
namespace {

// Series keep their colour on a light and on a dark page.
constexpr std::string_view kStyle = R"(
:root { color-scheme: light dark; --page: #fbfbf9; --card: #ffffff; --ink: #1c1d20; --soft: #5d6068;
  --line: #e3e3de; --s0: #2f6fb5; --s1: #e07b39; --s2: #2a9d7f; --s3: #9b6bc4;
  --s4: #b8860b; --s5: #c2477a; --s6: #4d7c0f; --s7: #6b7280;
  --good: #1f7a4d; --bad: #b3261e; }
@media (prefers-color-scheme: dark) { :root { --page: #16171a; --card: #1e2024; --ink: #e8e8e4; --soft: #a3a6ad;
  --line: #34373d; --s0: #6ea8e6; --s1: #f0a066; --s2: #5fc9ab; --s3: #bf9be3;
  --s4: #e0b040; --s5: #e88ab0; --s6: #9ccc5a; --s7: #aab0ba;
  --good: #63c794; --bad: #ff8a80; } }
* { box-sizing: border-box; }
body { margin: 0; background: var(--page); color: var(--ink);
  font: 15px/1.5 system-ui, -apple-system, "Segoe UI", Roboto, "DejaVu Sans", sans-serif; }
main { max-width: 1240px; margin: 0 auto; padding: 32px 20px 48px; }
h1 { font-size: 26px; line-height: 1.25; margin: 0 0 4px; overflow-wrap: anywhere; }
h2 { font-size: 18px; margin: 32px 0 10px; }
.verdict { font-size: 17px; font-weight: 600; margin: 0 0 20px; color: var(--good); }
.verdict.bad, td.bad, .difference { color: var(--bad); }
dl { display: grid; grid-template-columns: max-content 1fr; gap: 2px 16px; margin: 0; }
dt { color: var(--soft); } dd { margin: 0; overflow-wrap: anywhere; }
.wide { overflow-x: auto; background: var(--card); border: 1px solid var(--line); border-radius: 8px; }
table { border-collapse: collapse; width: 100%; font-size: 13px; font-variant-numeric: tabular-nums; }
th, td { padding: 6px 9px; text-align: right; white-space: nowrap; border-top: 1px solid var(--line); }
thead th { border-top: 0; color: var(--soft); font-weight: 500; }
thead tr:first-child th { padding-bottom: 0; text-align: center; }
th:first-child, td:first-child { text-align: left; }
td.error { text-align: left; white-space: normal; color: var(--bad); }
.notes { color: var(--soft); font-size: 13px; margin: 8px 0 0; padding-left: 18px; }
.charts { display: grid; grid-template-columns: repeat(auto-fit, minmax(min(100%, 460px), 1fr)); gap: 16px; }
figure { margin: 0; padding: 16px;
  background: var(--card); border: 1px solid var(--line); border-radius: 8px; }
figcaption { color: var(--soft); font-size: 13px; }
figcaption b { color: var(--ink); font-size: 15px; display: block; }
.legend { font-size: 12.5px; color: var(--soft); margin: 6px 0 8px; min-height: 1.5em; }
.legend span { margin-right: 14px; white-space: nowrap; }
.legend i { display: inline-block; width: 10px; height: 10px; border-radius: 2px; margin-right: 5px; }
svg { width: 100%; height: auto; display: block; }
svg text { font-size: 12px; fill: var(--ink); } svg .label { text-anchor: end; }
svg .value { font-size: 11px; fill: var(--soft); }
svg .tick { font-size: 11px; fill: var(--soft); text-anchor: middle; }
svg .grid { stroke: var(--line); } svg .axis { stroke: var(--soft); }
svg .s0 { fill: var(--s0); } svg .s1 { fill: var(--s1); }
svg .s2 { fill: var(--s2); } svg .s3 { fill: var(--s3); }
svg .s4 { fill: var(--s4); } svg .s5 { fill: var(--s5); }
svg .s6 { fill: var(--s6); } svg .s7 { fill: var(--s7); }
i.s0 { background: var(--s0); } i.s1 { background: var(--s1); }
i.s2 { background: var(--s2); } i.s3 { background: var(--s3); }
i.s4 { background: var(--s4); } i.s5 { background: var(--s5); }
i.s6 { background: var(--s6); } i.s7 { background: var(--s7); }
)";

}  // namespace

std::string report_page(const ReportPage& page) {
  std::string facts;
  for (const auto& [name, value] : page.facts)
    facts += fmt::format("<dt>{}</dt><dd>{}</dd>\n", html_escape(name), html_escape(value));
  std::string notes;
  for (const std::string& note : page.notes) notes += fmt::format("<li>{}</li>\n", html_escape(note));
  return fmt::format(
      "<!DOCTYPE html>\n<html lang=\"en\">\n<head>\n<meta charset=\"utf-8\">\n"
      "<meta name=\"viewport\" content=\"width=device-width, initial-scale=1\">\n"
      "<title>{}</title>\n<style>{}</style>\n</head>\n<body>\n<main>\n"
      "<h1>{}</h1>\n<p class=\"verdict{}\">{}</p>\n<dl>\n{}</dl>\n"
      "<h2>Results</h2>\n<div class=\"wide\"><table>\n{}</table></div>\n"
      "<ul class=\"notes\">\n{}</ul>\n<h2>Charts</h2>\n"
      "<div class=\"charts\">\n{}</div>\n</main>\n</body>\n</html>\n",
      html_escape(page.title), kStyle, html_escape(page.heading), page.is_bad ? " bad" : "",
      html_escape(page.verdict), facts, page.table, notes, page.charts);
}

}  // namespace chorale::tools
