import { expect, test } from "vitest";
import { SseParser } from "../src/api/sse.ts";
import type { SseEvent } from "../src/api/sse.ts";

const encode = (text: string): Uint8Array => new TextEncoder().encode(text);

// Everything the parser finds when the bytes are cut into pieces of this size.
function parse(bytes: Uint8Array, size: number): SseEvent[] {
  const parser = new SseParser();
  const out: SseEvent[] = [];
  for (let i = 0; i < bytes.length; i += size) out.push(...parser.push(bytes.subarray(i, i + size)));
  return out;
}

function dataOf(text: string): string[] {
  return parse(encode(text), 1e9).map(({ data }) => data);
}

test("one event per blank line", () => {
  expect(dataOf("data: a\n\ndata: b\n\n")).toEqual(["a", "b"]);
});

test("any size of the pieces gives the same events, within characters and within CRLF", () => {
  const bytes = encode('data: {"text":"Grüße, 龍 🐉"}\r\n\r\nevent: x\rdata: 1\rdata: 2\r\r: ping\n\ndata: [DONE]\n\n');
  const expected = [
    { event: "message", data: '{"text":"Grüße, 龍 🐉"}' },
    { event: "x", data: "1\n2" },
    { event: "message", data: "[DONE]" },
  ];
  for (let size = 1; size <= bytes.length; ++size) expect(parse(bytes, size)).toEqual(expected);
});

test("an event is known as soon as its blank line has begun", () => {
  const parser = new SseParser();
  expect(parser.push(encode("data: a\r\n\r"))).toEqual([{ event: "message", data: "a" }]);
  expect(parser.push(encode("\n"))).toEqual([]);
  expect(parser.push(encode("data: b\r\n\r\n"))).toEqual([{ event: "message", data: "b" }]);
});

test("what is incomplete at the end is not an event", () => {
  expect(dataOf("data: a\n\ndata: b")).toEqual(["a"]);
  expect(dataOf("data: a\n\ndata: b\n")).toEqual(["a"]);
});

test("lines of data are joined, and one space after the colon is dropped", () => {
  expect(dataOf("data:a\ndata:  b\ndata\n\n")).toEqual(["a\n b\n"]);
});

test("comments, unknown fields and empty events are nothing", () => {
  expect(dataOf(": hello\n\nid: 7\nretry: 5\n\nevent: x\n\ndata: a\n\n")).toEqual(["a"]);
});

test("a byte order mark is dropped", () => {
  expect(dataOf("\ufeffdata: a\n\n")).toEqual(["a"]);
});
