import { expect, test } from "vitest";
import { parseMetrics } from "../src/api/prometheus.ts";

test("samples with labels and without, comments and blank lines", () => {
  const text = `# HELP chorale_num_requests_running Requests that are being computed.
# TYPE chorale_num_requests_running gauge
chorale_num_requests_running{model_name="tales-moe"} 3

plain 1.5e3
`;
  expect([...parseMetrics(text)]).toEqual([
    ["chorale_num_requests_running", 3],
    ["plain", 1500],
  ]);
});

test("label sets of one name are added up", () => {
  expect(parseMetrics('a{x="1"} 2\na{x="2"} 3\n').get("a")).toBe(5);
});

test("label values may hold braces, spaces, quotes and backslashes", () => {
  expect(parseMetrics('a{x="} 9",y="\\"} 8",z="\\\\"} 7\n').get("a")).toBe(7);
});

test("timestamps, CRLF, infinities and not-a-number", () => {
  const values = parseMetrics("a 1 1700000000000\r\nb +Inf\r\nc -Inf\r\nd NaN\r\n");
  expect(values.get("a")).toBe(1);
  expect(values.get("b")).toBe(Infinity);
  expect(values.get("c")).toBe(-Infinity);
  expect(values.get("d")).toBeNaN();
});

test("what is not a sample is left out", () => {
  expect(parseMetrics('a\nb x\nc{x="1" 2\n{x="1"} 2\n-1 2\nd{x="1"}\n<html>\ne-f 1\n').size).toBe(0);
});
