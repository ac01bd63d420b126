import { expect, test } from "vitest";
import { emptyAnswer, errorMessage, withFrame } from "../src/api/chat_stream.ts";
import type { Answer } from "../src/api/chat_stream.ts";

const read = (frames: unknown[]): Answer => frames.reduce<Answer>(withFrame, emptyAnswer);
const delta = (value: unknown, finish: string | null = null): unknown => ({
  choices: [{ index: 0, delta: value, finish_reason: finish }],
  usage: null,
});

test("content, reasoning, the end and the usage", () => {
  const answer = read([
    delta({ role: "assistant", content: "" }),
    delta({ reasoning_content: "Hm" }),
    delta({ reasoning_content: "m." }),
    delta({ content: "Yes" }),
    delta({ content: "." }),
    delta({}, "stop"),
    { choices: [], usage: { prompt_tokens: 9, completion_tokens: 4, prompt_tokens_details: { cached_tokens: 8 } } },
  ]);
  expect(answer).toEqual({
    content: "Yes.",
    reasoning: "Hmm.",
    toolCalls: [],
    finishReason: "stop",
    usage: { promptTokens: 9, completionTokens: 4, cachedTokens: 8 },
  });
});

test("fragments of tool calls are put together by their index", () => {
  const call = (index: number, value: unknown): unknown => delta({ tool_calls: [{ index, function: value }] });
  const answer = read([
    call(0, { name: "weather", arguments: "" }),
    call(0, { arguments: '{"city":' }),
    call(1, { name: "time", arguments: "{}" }),
    call(0, { arguments: '"Bonn"}' }),
  ]);
  expect(answer.toolCalls).toEqual([
    { name: "weather", arguments: '{"city":"Bonn"}' },
    { name: "time", arguments: "{}" },
  ]);
});

test("frames of any other form change nothing", () => {
  const frames = [null, 1, "x", [], { choices: 3 }, { choices: [null] }, delta(null), delta({ content: { a: 1 } })];
  const wild = [delta({ tool_calls: [{ index: 1e9, function: {} }, { index: -1 }, { index: 0.5 }] })];
  expect(read([...frames, ...wild, { usage: { prompt_tokens: "9" } }])).toEqual(emptyAnswer);
});

test("errors in their usual forms", () => {
  expect(errorMessage({ error: { message: "too long", code: 400 } })).toBe("too long");
  expect(errorMessage({ error: "broken" })).toBe("broken");
  expect(errorMessage({ error: {} })).toMatch(/without a message/);
  expect(errorMessage({ error: null })).toBeNull();
  expect(errorMessage({ choices: [] })).toBeNull();
  expect(errorMessage(null)).toBeNull();
});
