import { afterEach, expect, test, vi } from "vitest";
import { follow, gapText, placeAfter, type Followed } from "./follow";

const stream = "2026-01-02T03:04:05.678901234Z";

/** An API over batches of three events, that ends each answer after `breaks` items. */
function serve(batches: number, breaks: number, opens: boolean, whole = false) {
  const asked: URLSearchParams[] = [];
  let down = 0;
  vi.stubGlobal("fetch", async (url: string, init: { signal: AbortSignal }) => {
    const query = new URLSearchParams(url.split("?")[1]);
    asked.push(query);
    if (asked.length > 1 && down++ % 3 < 2) throw new TypeError("fetch failed");
    const sequence = Number(query.get("after.sequence") ?? 0);
    const events = Number(query.get("after.events") ?? 0);
    const position = (s: number, e: number) => ({ progress: { position: { stream, sequence: String(s), events: e, stored: stream } } });
    const items: object[] = opens ? [position(sequence, events)] : [];
    for (let s = Math.max(1, sequence + (events ? 0 : 1)); s <= batches; s++) {
      for (let i = s === sequence ? events : 0; i < 3; i++) items.push({ event: { id: `00-${s}-${i}`, sequence: String(s) } });
      if (opens) items.push(position(s, 0));
    }
    const text = items.slice(0, breaks).map((i) => JSON.stringify({ result: i }) + "\n").join("");
    const bytes = new TextEncoder().encode(whole ? text : text + '{"result":{"ev');
    const body = new ReadableStream<Uint8Array>({
      start(c) {
        c.enqueue(bytes);
        if (items.length > breaks) c.close();
        else init.signal.addEventListener("abort", () => c.error(new Error("aborted")));
      },
    });
    return new Response(body);
  });
  return asked;
}

async function collect(until: (items: Followed[]) => boolean): Promise<Followed[]> {
  const abort = new AbortController();
  const got: Followed[] = [];
  for await (const item of follow({ "resource.name": "web" }, abort.signal, { least: 1, most: 4 })) {
    got.push(item);
    if (until(got)) {
      abort.abort();
      break;
    }
  }
  return got;
}

afterEach(() => vi.unstubAllGlobals());

const ids = (items: Followed[]) => items.flatMap((i) => (i.event ? [i.event.id] : []));

test("each event comes once, wherever the API ends", async () => {
  const want = [1, 2, 3, 4].flatMap((s) => [0, 1, 2].map((i) => `00-${s}-${i}`));
  for (const breaks of [3, 4, 5, 6, 9]) {
    const asked = serve(4, breaks, true, breaks % 2 === 0);
    const got = await collect((items) => ids(items).length >= want.length);
    expect(ids(got)).toEqual(want);
    expect(got.some((i) => i.gap)).toBe(false);
    expect(got.filter((i) => i.lost === "").length).toBeGreaterThan(0);
    expect(asked.every((q) => q.get("resource.name") === "web")).toBe(true);
    expect(asked.at(-1)!.get("after.stream")).toBe(stream);
  }
});

test("an API that does not say where the tap is leaves a gap that is named", async () => {
  serve(4, 2, false);
  const got = await collect((items) => items.some((i) => i.gap));
  const gap = got.find((i) => i.gap)!.gap!;
  expect(gap.reason).toBe("unseen");
  expect(gapText(gap)).toContain("the API was away");
});

test("the API's own gap is named, others are only counted", () => {
  expect(gapText({ skipped: "0", reason: "discarded", since: stream, until: stream })).toContain("no longer has");
  expect(gapText({ skipped: "3", reason: "shed" })).toBe("");
});

test("a place is after the event, or not known", () => {
  const at = { stream, sequence: "4", events: 0, stored: stream };
  const event = (id: string, sequence: string) => ({ event: { id, sequence } }) as Followed;
  expect(placeAfter(at, event("ab-9-6", "7"))).toEqual({ ...at, sequence: "7", events: 7 });
  expect(placeAfter(null, event("ab-9-6", "7"))).toBeNull();
  expect(placeAfter(at, event("ab-9-6", "0"))).toBeNull();
  expect(placeAfter(at, { gap: { skipped: "1", reason: "shed" } })).toEqual(at);
});
