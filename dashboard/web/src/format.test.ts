import { expect, test } from "vitest";
import { answers, bytes, failed, grpcName, health, micros, ms, percent, rps } from "./format";

test.each([
  [percent(0.98734), "98.73%"],
  [percent(1), "100.00%"],
  [rps(0), "0.0"],
  [rps(100), "100.0"],
  [rps(12345), "12.3k"],
  [percent(0.999996), "99.99%"],
  [percent(0.9873), "98.73%"],
  [ms(0), "0ms"],
  [ms(0.164), "0.16ms"],
  [ms(0.996), "1.0ms"],
  [ms(9.94), "9.9ms"],
  [ms(9.96), "10ms"],
  [ms(5001), "5001ms"],
  [ms(12_340), "12.3s"],
  [micros(999), "999µs"],
  [micros(1500), "1.5ms"],
  [bytes(999), "999B"],
  [bytes(1500), "1.5KB"],
  [bytes(2_500_000_000_000_000), "2500.0TB"],
])("%s is %s", (got, want) => expect(got).toBe(want));

test("health needs requests", () => {
  expect(health(0, 0)).toBe("none");
  expect(health(1, 10)).toBe("good");
  expect(health(0.97, 10)).toBe("warn");
  expect(health(0.9, 10)).toBe("bad");
});

test("what failed is what lowers the success rate", () => {
  const e = { error: "", status: 200 };
  expect(failed(e)).toBe(false);
  expect(failed({ ...e, status: 404 })).toBe(false);
  expect(failed({ ...e, status: 503 })).toBe(true);
  expect(failed({ ...e, error: "server_reset" })).toBe(true);
  expect(failed({ ...e, grpc_status: 0 })).toBe(false);
  expect(failed({ ...e, grpc_status: 5 })).toBe(false); // NotFound is an answer
  expect(failed({ ...e, grpc_status: 14 })).toBe(true);
});

test("answers are by gRPC status where there are calls", () => {
  expect(answers({ "200": "7" }, { "0": "5", "2": "2" })).toEqual([
    { name: "OK", failed: false, count: 5 },
    { name: "Unknown", failed: true, count: 2 },
  ]);
  expect(answers({ "200": "5", "404": "1", "503": "2", "0": "1" }, {})).toEqual([
    { name: "none", failed: true, count: 1 },
    { name: "200", failed: false, count: 5 },
    { name: "404", failed: false, count: 1 },
    { name: "503", failed: true, count: 2 },
  ]);
  expect([grpcName(-1), grpcName(16), grpcName(99)]).toEqual(["no status", "Unauthenticated", "code 99"]);
});
