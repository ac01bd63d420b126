import { expect, test } from "vitest";
import { parseMarkdown } from "../src/text/markdown.ts";
import { parseInline } from "../src/text/markdown_inline.ts";
import type { Inline } from "../src/text/markdown_inline.ts";

const text = (value: string): Inline => ({ type: "text", text: value });
const code = (value: string): Inline => ({ type: "code", text: value });
const strong = (...children: Inline[]): Inline => ({ type: "strong", children });
const em = (...children: Inline[]): Inline => ({ type: "em", children });
const paragraph = (value: string) => ({ type: "paragraph", children: [text(value)] });

test("paragraphs keep their line breaks", () => {
  expect(parseMarkdown("a\nb\n\n\nc\n")).toEqual([paragraph("a\nb"), paragraph("c")]);
  expect(parseMarkdown("")).toEqual([]);
  expect(parseMarkdown("a\r\n\r\nb")).toEqual([paragraph("a"), paragraph("b")]);
});

test("headings and rules", () => {
  expect(parseMarkdown("# A\n## B ##\n#no\n---\n")).toEqual([
    { type: "heading", level: 1, children: [text("A")] },
    { type: "heading", level: 2, children: [text("B")] },
    paragraph("#no"),
    { type: "rule" },
  ]);
});

test("code blocks keep everything, also while they are open", () => {
  const block = { type: "code", language: "py", text: "  **a**\n\n<b>`c`" };
  expect(parseMarkdown("```py\n  **a**\n\n<b>`c`\n```")).toEqual([block]);
  expect(parseMarkdown("```py\n  **a**\n\n<b>`c`")).toEqual([block]);
  expect(parseMarkdown("~~~~\n```\n~~~\n~~~~\nx")).toEqual([
    { type: "code", language: "", text: "```\n~~~" },
    paragraph("x"),
  ]);
  expect(parseMarkdown("```a`b")).toEqual([paragraph("```a`b")]);
});

test("lists, nested and numbered", () => {
  expect(parseMarkdown("Things:\n- a\n- b\n  - c\n    more\n\n3. x\n\n4. y\n\nz")).toEqual([
    paragraph("Things:"),
    {
      type: "list",
      ordered: false,
      start: 1,
      items: [
        [paragraph("a")],
        [paragraph("b"), { type: "list", ordered: false, start: 1, items: [[paragraph("c\nmore")]] }],
      ],
    },
    { type: "list", ordered: true, start: 3, items: [[paragraph("x")], [paragraph("y")]] },
    paragraph("z"),
  ]);
});

test("code within an item", () => {
  expect(parseMarkdown("1. Do:\n   ```sh\n   ls\n     -l\n   ```\n2. Done")).toEqual([
    {
      type: "list",
      ordered: true,
      start: 1,
      items: [[paragraph("Do:"), { type: "code", language: "sh", text: "ls\n  -l" }], [paragraph("Done")]],
    },
  ]);
});

test("bold, emphasis and code within a line", () => {
  expect(parseInline("a **b *c* d** `e **f**` *g*")).toEqual([
    text("a "),
    strong(text("b "), em(text("c")), text(" d")),
    text(" "),
    code("e **f**"),
    text(" "),
    em(text("g")),
  ]);
  expect(parseInline("***a***")).toEqual([strong(em(text("a")))]);
  expect(parseInline("`` `a` ``")).toEqual([code("`a`")]);
});

test("stars and backticks that mark nothing stay", () => {
  for (const plain of ["2 * 3 * 4", "2*3*4", "**open", "*", "**", "****", "a ** b **", "`open", "``a`", "snake_case_x"]) {
    expect(parseInline(plain)).toEqual([text(plain)]);
  }
  expect(parseInline("**a *b**")).toEqual([strong(text("a *b"))]);
});

test("a backslash makes punctuation plain", () => {
  expect(parseInline("\\*a\\* \\`b\\` c:\\dir")).toEqual([text("*a* `b` c:\\dir")]);
});

test("HTML, links and images are text", () => {
  const hostile = '<img src=x onerror=alert(1)> [a](javascript:alert(1)) ![b](http://x/y.png) &lt;';
  expect(parseMarkdown(hostile)).toEqual([paragraph(hostile)]);
});

// Each of these took quadratic time in some renderer.
test("long hostile texts take no long time", () => {
  const n = 20_000;
  const hostile = [
    "*a ".repeat(n),
    "**a ".repeat(n),
    "**a* ".repeat(n),
    "`a ``b ".repeat(n),
    "`".repeat(n),
    Array.from({ length: 300 }, (_, i) => "`".repeat(i)).join(" "),
    "```" + " ".repeat(n) + "a`",
    "` " + " ".repeat(n) + "`",
    "- ".repeat(n),
    "- ".repeat(n) + "x",
    "-" + " ".repeat(n) + "x",
    "# " + "# ".repeat(n) + "x",
    "- a\n".repeat(n),
    Array.from({ length: 200 }, (_, i) => " ".repeat(i * 2) + "- a").join("\n"),
    "\n".repeat(n),
    "- a\n\n\n\n".repeat(n / 4),
    "\\*".repeat(n),
  ];
  for (const value of hostile) {
    const start = performance.now();
    parseMarkdown(value);
    expect(performance.now() - start, value.slice(0, 20)).toBeLessThan(1500);
  }
});
