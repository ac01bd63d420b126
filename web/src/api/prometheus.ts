// The Prometheus text format, as far as the page needs it.

// The end of a label set: the index after its closing brace, or -1. Values are quoted and may hold braces.
function endOfLabels(line: string, start: number): number {
  let quoted = false;
  for (let i = start; i < line.length; ++i) {
    const c = line[i];
    if (quoted && c === "\\") ++i;
    else if (c === '"') quoted = !quoted;
    else if (!quoted && c === "}") return i + 1;
  }
  return -1;
}

function toNumber(text: string): number | undefined {
  switch (text) {
    case "+Inf":
    case "Inf":
      return Infinity;
    case "-Inf":
      return -Infinity;
    case "NaN":
      return NaN;
    default: {
      const value = Number(text);
      return text === "" || Number.isNaN(value) ? undefined : value;
    }
  }
}

// Values by metric name, summed over label sets. Lines that are not samples are left out.
export function parseMetrics(text: string): Map<string, number> {
  const values = new Map<string, number>();
  for (const raw of text.split("\n")) {
    const line = raw.trim();
    if (line === "" || line.startsWith("#")) continue;
    const name = /^[a-zA-Z_:][a-zA-Z0-9_:]*/.exec(line)?.[0];
    if (name === undefined) continue;
    let rest = name.length;
    if (line[rest] === "{") {
      rest = endOfLabels(line, rest);
      if (rest < 0) continue;
    } else if (line[rest] !== " " && line[rest] !== "\t") {
      continue;
    }
    // A timestamp may follow the value.
    const value = toNumber(line.slice(rest).trim().split(/\s+/)[0] ?? "");
    if (value !== undefined) values.set(name, (values.get(name) ?? 0) + value);
  }
  return values;
}
