// Server-sent events from the bytes of a response, however they are cut.

export interface SseEvent {
  event: string; // "message" where the stream names none
  data: string;
}

export class SseParser {
  // Holds back the bytes of an unfinished character, and drops a byte order mark.
  #decoder = new TextDecoder();
  #line = "";
  #sawCr = false;
  #event = "";
  #data: string[] = [];

  // The events that these bytes complete. What the stream's end leaves incomplete is never one.
  push(bytes: Uint8Array): SseEvent[] {
    const text = this.#decoder.decode(bytes, { stream: true });
    const events: SseEvent[] = [];
    let start = 0;
    for (let i = 0; i < text.length; ++i) {
      const c = text.charCodeAt(i);
      const afterCr = this.#sawCr;
      this.#sawCr = c === 13;
      if (c !== 10 && c !== 13) continue;
      // CRLF is one end of line, also where the two came in different pieces.
      if (!(c === 10 && afterCr)) this.#endLine(this.#line + text.slice(start, i), events);
      this.#line = "";
      start = i + 1;
    }
    this.#line += text.slice(start);
    return events;
  }

  #endLine(line: string, events: SseEvent[]): void {
    if (line === "") {
      if (this.#data.length > 0) events.push({ event: this.#event || "message", data: this.#data.join("\n") });
      this.#event = "";
      this.#data = [];
      return;
    }
    const colon = line.indexOf(":");
    if (colon === 0) return; // a comment, which keeps a connection alive
    const field = colon < 0 ? line : line.slice(0, colon);
    let value = colon < 0 ? "" : line.slice(colon + 1);
    if (value.startsWith(" ")) value = value.slice(1);
    if (field === "data") this.#data.push(value);
    if (field === "event") this.#event = value;
  }
}
