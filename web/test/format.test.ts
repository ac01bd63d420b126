import { expect, test } from "vitest";
import { formatStrategy } from "../src/text/format.ts";

test("a strategy of one rank is told as such", () => {
  expect(formatStrategy("tp=1,dp=1,ep=1,moe_tp=1,moe_dp=1")).toBe("1 rank");
  for (const strategy of ["tp=2,dp=1,ep=2,moe_tp=1,moe_dp=1", "tp=1,dp=1,ep=1,moe_tp=1,moe_dp=10", "tp=11", ""]) {
    expect(formatStrategy(strategy)).toBe(strategy);
  }
});
