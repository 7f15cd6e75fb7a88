import { expect, test } from "vitest";
import { overviewHref, parse, workloadHref } from "./route";

test("a workload's link leads to the workload", () => {
  const resource = { cluster: "local", namespace: "a b/ü", kind: "deploy", name: "web%" };
  expect(parse(workloadHref(resource))).toEqual({ page: "workload", resource });
});

test("overviews", () => {
  expect(parse("")).toEqual({ page: "overview", namespace: "" });
  expect(parse(overviewHref())).toEqual({ page: "overview", namespace: "" });
  expect(parse(overviewHref("emojivoto"))).toEqual({ page: "overview", namespace: "emojivoto" });
});

test.each(["#/x", "#/local/ns/nokind/web", "#/a/b/c/d/e", "#/%zz"])("%s is no page", (hash) =>
  expect(parse(hash)).toEqual({ page: "unknown", hash }),
);
