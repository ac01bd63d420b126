// Light markdown into a tree: paragraphs, headings, code, lists, bold and emphasis. Everything else, links and HTML among
// it, stays text. Time is linear in the text, whatever it is: it comes from a model, again and again while it streams.
import { parseInline } from "./markdown_inline.ts";
import type { Inline } from "./markdown_inline.ts";

export type Block =
  | { type: "paragraph"; children: Inline[] }
  | { type: "heading"; level: number; children: Inline[] }
  | { type: "code"; language: string; text: string }
  | { type: "list"; ordered: boolean; start: number; items: Block[][] }
  | { type: "rule" };

const kDeepest = 6; // lists within lists; deeper ones stay text

interface Fence {
  indent: number;
  mark: string; // the characters that open it, e.g. ```
  language: string;
}

interface Marker {
  indent: number;
  width: number; // from the line's beginning to the item's text
  ordered: boolean;
  start: number;
}

function openFence(line: string): Fence | null {
  const match = /^( *)(`{3,}|~{3,})/.exec(line);
  if (match === null) return null;
  const rest = line.slice(match[0].length);
  if (rest.includes("`")) return null;
  return { indent: match[1]?.length ?? 0, mark: match[2] ?? "", language: rest.trim().split(" ")[0] ?? "" };
}

function closesFence(line: string, fence: Fence): boolean {
  const text = line.trim();
  return text.length >= fence.mark.length && text === (fence.mark[0] ?? "").repeat(text.length);
}

function readMarker(line: string): Marker | null {
  const match = /^( *)(?:([-*+])|(\d{1,9})[.)])( +|$)/.exec(line);
  if (match === null || isRule(line)) return null;
  return {
    indent: match[1]?.length ?? 0,
    width: match[0].length,
    ordered: match[3] !== undefined,
    start: Number(match[3] ?? 1),
  };
}

function isRule(line: string): boolean {
  return /^ {0,3}(?:(?:-[ ]*){3,}|(?:\*[ ]*){3,}|(?:_[ ]*){3,})$/.test(line);
}

function readHeading(line: string): { level: number; text: string } | null {
  const match = /^(#{1,6}) +(.*)$/.exec(line);
  return match === null ? null : { level: match[1]?.length ?? 1, text: (match[2] ?? "").replace(/ #+ *$/, "") };
}

function indentOf(line: string): number {
  return line.length - line.trimStart().length;
}

class Reader {
  readonly #lines: string[];
  readonly #depth: number;
  #at = 0;

  constructor(lines: string[], depth: number) {
    this.#lines = lines;
    this.#depth = depth;
  }

  blocks(): Block[] {
    const out: Block[] = [];
    for (let line = this.#peek(); line !== null; line = this.#peek()) {
      if (line.trim() === "") ++this.#at;
      else out.push(this.#block(line));
    }
    return out;
  }

  #peek(): string | null {
    return this.#lines[this.#at] ?? null;
  }

  #block(line: string): Block {
    const fence = openFence(line);
    if (fence !== null) return this.#code(fence);
    const heading = readHeading(line);
    if (heading !== null) {
      ++this.#at;
      return { type: "heading", level: heading.level, children: parseInline(heading.text) };
    }
    if (isRule(line)) {
      ++this.#at;
      return { type: "rule" };
    }
    const marker = this.#depth < kDeepest ? readMarker(line) : null;
    return marker === null ? this.#paragraph() : this.#list(marker);
  }

  // A fence that is still open, as it is while the text streams, reaches to the end.
  #code(fence: Fence): Block {
    const text: string[] = [];
    ++this.#at;
    for (let line = this.#peek(); line !== null; line = this.#peek()) {
      ++this.#at;
      if (closesFence(line, fence)) break;
      text.push(line.slice(Math.min(fence.indent, indentOf(line))));
    }
    return { type: "code", language: fence.language, text: text.join("\n") };
  }

  #startsBlock(line: string): boolean {
    if (openFence(line) !== null || readHeading(line) !== null || isRule(line)) return true;
    return this.#depth < kDeepest && readMarker(line) !== null;
  }

  #paragraph(): Block {
    const text: string[] = [];
    for (let line = this.#peek(); line !== null && line.trim() !== ""; line = this.#peek()) {
      if (text.length > 0 && this.#startsBlock(line)) break;
      text.push(line);
      ++this.#at;
    }
    return { type: "paragraph", children: parseInline(text.join("\n").trim()) };
  }

  #list(first: Marker): Block {
    const items: Block[][] = [];
    for (let line = this.#peek(); line !== null; line = this.#peek()) {
      const marker = readMarker(line);
      if (marker === null || marker.ordered !== first.ordered) break;
      items.push(new Reader(this.#itemLines(marker), this.#depth + 1).blocks());
    }
    return { type: "list", ordered: first.ordered, start: first.start, items };
  }

  // The lines of one item without their indentation; blank lines belong to it when an indented line follows.
  #itemLines(marker: Marker): string[] {
    const lines = [(this.#peek() ?? "").slice(marker.width)];
    ++this.#at;
    let blanks = 0;
    for (let line = this.#lines[this.#at + blanks]; line !== undefined; line = this.#lines[this.#at + blanks]) {
      if (line.trim() === "") {
        ++blanks;
        continue;
      }
      const inside = indentOf(line) > marker.indent + 1;
      const continued = blanks === 0 && indentOf(line) <= marker.indent + 1 && !this.#startsBlock(line);
      if (!inside && !continued) break;
      for (; blanks > 0; --blanks, ++this.#at) lines.push("");
      lines.push(line.slice(Math.min(marker.width, indentOf(line))));
      ++this.#at;
    }
    this.#at += blanks;
    return lines;
  }
}

export function parseMarkdown(text: string): Block[] {
  return new Reader(text.replaceAll("\r\n", "\n").replaceAll("\t", "    ").split("\n"), 0).blocks();
}
