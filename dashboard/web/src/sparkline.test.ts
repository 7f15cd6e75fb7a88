import { expect, test } from "vitest";
import { lone } from "./chart";
import { path } from "./sparkline";

test("a sparkline of nothing draws nothing; of zeros, a line at the bottom", () => {
  expect(path([], 10, 10)).toBe("");
  expect(path([0, 0], 10, 10)).toBe("M0.0 9.0L10.0 9.0");
});

test("points without a neighbour are found", () => {
  expect(lone([1, null, 2, 3, null, 4])).toEqual([0, 5]);
  expect(lone([null, 1, null])).toEqual([1]);
  expect(lone([])).toEqual([]);
});
