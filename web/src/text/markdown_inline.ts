// Markdown within a line: code, bold, emphasis, backslash escapes.

export type Inline =
  | { type: "text"; text: string }
  | { type: "code"; text: string }
  | { type: "strong"; children: Inline[] }
  | { type: "em"; children: Inline[] };

type Token = { type: "text"; text: string } | { type: "code"; text: string } | Stars;

interface Stars {
  type: "stars";
  length: number;
  opens: boolean;
  closes: boolean;
}

function runLength(text: string, start: number): number {
  let end = start;
  while (end < text.length && text[end] === text[start]) ++end;
  return end - start;
}

function isSpace(c: string | undefined): boolean {
  return c === undefined || /\s/.test(c);
}

function isWord(c: string | undefined): boolean {
  return c !== undefined && /[\p{L}\p{N}]/u.test(c);
}

// One space at both ends is there to keep a backtick of the code off the mark.
function isPadded(code: string): boolean {
  return code.startsWith(" ") && code.endsWith(" ") && code.trim() !== "";
}

// One star within a word is more likely a product than emphasis.
function readStars(text: string, start: number, length: number): Stars {
  const before = text[start - 1];
  const after = text[start + length];
  const alone = length === 1;
  return {
    type: "stars",
    length,
    opens: !isSpace(after) && !(alone && isWord(before)),
    closes: !isSpace(before) && !(alone && isWord(after)),
  };
}

// The starts of all runs of backticks, by their length, in order: what closes a code span is looked up, not searched.
function backtickRuns(text: string): Map<number, number[]> {
  const runs = new Map<number, number[]>();
  for (let i = text.indexOf("`"); i >= 0; i = text.indexOf("`", i)) {
    const length = runLength(text, i);
    const starts = runs.get(length) ?? [];
    starts.push(i);
    runs.set(length, starts);
    i += length;
  }
  return runs;
}

function tokens(text: string): Token[] {
  const out: Token[] = [];
  const runs = backtickRuns(text);
  const used = new Map<number, number>(); // by length: how many of its runs lie behind
  let plain = "";
  const push = (token: Token): void => {
    if (plain !== "") out.push({ type: "text", text: plain });
    plain = "";
    out.push(token);
  };
  let i = 0;
  while (i < text.length) {
    const c = text[i] ?? "";
    if (c === "\\" && /[!-/:-@[-`{-~]/.test(text[i + 1] ?? "")) {
      plain += text[i + 1] ?? "";
      i += 2;
    } else if (c === "`") {
      const length = runLength(text, i);
      const starts = runs.get(length) ?? [];
      let next = used.get(length) ?? 0;
      while (next < starts.length && (starts[next] ?? 0) <= i) ++next;
      used.set(length, next);
      const end = starts[next];
      if (end === undefined) {
        plain += text.slice(i, i + length);
        i += length;
      } else {
        const code = text.slice(i + length, end);
        push({ type: "code", text: isPadded(code) ? code.slice(1, -1) : code });
        i = end + length;
      }
    } else if (c === "*") {
      const length = runLength(text, i);
      if (length > 3) plain += text.slice(i, i + length);
      else push(readStars(text, i, length));
      i += length;
    } else {
      plain += c;
      ++i;
    }
  }
  if (plain !== "") out.push({ type: "text", text: plain });
  return out;
}

interface Frame {
  stars: number; // 0: the whole, 1: em, 2: strong
  children: Inline[];
}

function append(to: Inline[], node: Inline): void {
  const last = to.at(-1);
  if (node.type === "text" && last?.type === "text") to[to.length - 1] = { type: "text", text: last.text + node.text };
  else to.push(node);
}

// At most one of each kind is open, so the stack has at most three frames.
class Pairing {
  readonly #stack: Frame[] = [{ stars: 0, children: [] }];

  add(node: Inline): void {
    const top = this.#stack.at(-1);
    if (top !== undefined) append(top.children, node);
  }

  stars(token: Stars): void {
    let left = token.length;
    while (token.closes && left > 0) {
      const at = this.#closable(left);
      if (at < 0) break;
      while (this.#stack.length > at + 1) this.#giveUp();
      const frame = this.#stack.pop();
      if (frame === undefined) break;
      this.add({ type: frame.stars === 2 ? "strong" : "em", children: frame.children });
      left -= frame.stars;
    }
    if (token.opens) {
      for (const kind of [2, 1]) {
        if (left < kind || this.#stack.some((frame) => frame.stars === kind)) continue;
        this.#stack.push({ stars: kind, children: [] });
        left -= kind;
      }
    }
    if (left > 0) this.add({ type: "text", text: "*".repeat(left) });
  }

  end(): Inline[] {
    while (this.#stack.length > 1) this.#giveUp();
    return this.#stack[0]?.children ?? [];
  }

  // The innermost open pair that so many stars can close. An empty pair is not one.
  #closable(stars: number): number {
    return this.#stack.findLastIndex(
      (frame) => (frame.stars === stars || (stars === 3 && frame.stars > 0)) && frame.children.length > 0,
    );
  }

  // What was opened and never closed was only stars.
  #giveUp(): void {
    const frame = this.#stack.pop();
    if (frame === undefined) return;
    this.add({ type: "text", text: "*".repeat(frame.stars) });
    for (const child of frame.children) this.add(child);
  }
}

export function parseInline(text: string): Inline[] {
  const pairing = new Pairing();
  for (const token of tokens(text)) {
    if (token.type === "stars") pairing.stars(token);
    else pairing.add(token);
  }
  return pairing.end();
}
