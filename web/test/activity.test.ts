import { expect, test } from "vitest";
import { activity } from "../src/api/activity.ts";
import type { Reading } from "../src/api/activity.ts";

function reading(time: number, values: Record<string, number>): Reading {
  return { time, values: new Map(Object.entries(values).map(([name, value]) => [`chorale_${name}`, value])) };
}

const before = reading(10, {
  prompt_tokens_total: 100,
  generation_tokens_total: 40,
  num_requests_running: 1,
  time_to_first_token_seconds_sum: 1,
  time_to_first_token_seconds_count: 4,
  inter_token_latency_seconds_sum: 3,
  inter_token_latency_seconds_count: 100,
});

test("rates are per second, latencies are means of the interval", () => {
  const after = reading(12, {
    prompt_tokens_total: 150,
    generation_tokens_total: 240,
    num_requests_running: 2,
    num_requests_waiting: 7,
    kv_cache_tokens_used: 64,
    kv_cache_capacity_tokens: 512,
    time_to_first_token_seconds_sum: 2,
    time_to_first_token_seconds_count: 8,
    inter_token_latency_seconds_sum: 3,
    inter_token_latency_seconds_count: 100,
  });
  expect(activity(before, after)).toEqual({
    time: 12,
    promptRate: 25,
    generationRate: 100,
    running: 2,
    waiting: 7,
    kvUsed: 64,
    kvTotal: 512,
    firstToken: 0.25,
    interToken: null, // no token came
  });
});

test("the first reading has no rates", () => {
  const point = activity(null, before);
  expect(point.generationRate).toBeNull();
  expect(point.firstToken).toBeNull();
  expect(point.running).toBe(1);
});

test("a server that was started anew makes no negative rate", () => {
  const point = activity(before, reading(11, { generation_tokens_total: 5, prompt_tokens_total: 100 }));
  expect(point.generationRate).toBeNull();
  expect(point.promptRate).toBe(0);
});

test("values that are absent or not finite are not known", () => {
  const point = activity(before, reading(11, { num_requests_running: NaN }));
  expect(point.running).toBeNull();
  expect(point.kvUsed).toBeNull();
  expect(point.promptRate).toBeNull();
});

test("two readings at the same time make no rate", () => {
  expect(activity(before, before).generationRate).toBeNull();
});
