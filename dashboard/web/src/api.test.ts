import { expect, test } from "vitest";
import { lines, resourceParams, type StatRow } from "./api";
import { bySort } from "./sort";

function stream(...chunks: Uint8Array[]): ReadableStream<Uint8Array> {
  return new ReadableStream({
    start(c) {
      for (const chunk of chunks) c.enqueue(chunk);
      c.close();
    },
  });
}

test("lines are whole wherever the stream is cut", async () => {
  const text = new TextEncoder().encode('{"a":"ü"}\n{"b":2}\n\n{"c":3}');
  for (let cut = 0; cut <= text.length; cut++) {
    const got: string[] = [];
    for await (const line of lines(stream(text.slice(0, cut), text.slice(cut)))) got.push(line);
    expect(got).toEqual(['{"a":"ü"}', '{"b":2}', '{"c":3}']);
  }
});

test("empty fields select all and are not sent", () => {
  expect(resourceParams({ namespace: "x", kind: "", name: "web" })).toEqual({
    "resource.namespace": "x",
    "resource.name": "web",
  });
});

function row(name: string, requests: number, success: number): StatRow {
  return {
    resource: { cluster: "c", namespace: "n", kind: "deploy", name },
    stats: { requests: String(requests), success, rps: requests },
  } as StatRow;
}

test("rows without requests are not the worst, and equal ones keep their order", () => {
  const rows = [row("b", 10, 0.5), row("idle", 0, 0), row("a", 10, 0.5), row("c", 10, 1)];
  const names = (down: boolean) => [...rows].sort(bySort({ key: "success", down })).map((r) => r.resource.name);
  expect(names(false)).toEqual(["a", "b", "c", "idle"]);
  expect(names(true)).toEqual(["idle", "c", "a", "b"]);
});
