// A tap that goes on where it was when the API ends and another takes its place.

import { tap, type Params, type TapGap, type TapItem, type TapPosition } from "./api";
import { clock, whole } from "./format";

// A tap that lost its API asks again so soon, and so late at most, milliseconds.
const again = { least: 100, most: 2000 };

/** What following a tap brings: what the tap sends, and that the API was lost or is back. */
export interface Followed extends TapItem {
  /** Why the API was lost; "" when it is back. */
  lost?: string;
}

/** A gap that this side finds: the API was away, and had not said where the tap was. */
const unseen = "unseen";

const params = (at: TapPosition): Params => ({
  "after.stream": at.stream,
  "after.sequence": at.sequence,
  "after.events": String(at.events),
  "after.stored": at.stored,
});

/** Where a tap is after an item, by where it was before; null: nobody knows. */
export function placeAfter(at: TapPosition | null, item: TapItem): TapPosition | null {
  const e = item.event;
  if (e) {
    // The last part of an id is the event's place in its batch.
    const index = Number(e.id.slice(e.id.lastIndexOf("-") + 1));
    if (!at || !Number.isInteger(index) || !Number(e.sequence)) return null;
    return { ...at, sequence: e.sequence, events: index + 1 };
  }
  return item.progress?.position ?? at;
}

function sleep(ms: number, signal: AbortSignal): Promise<void> {
  return new Promise((wake) => {
    const timer = setTimeout(done, ms);
    function done() {
      clearTimeout(timer);
      signal.removeEventListener("abort", done);
      wake();
    }
    signal.addEventListener("abort", done);
    if (signal.aborted) done();
  });
}

/** Streams a tap until the signal aborts: each event once, whatever becomes of the API meanwhile. */
export async function* follow(asked: Params, signal: AbortSignal, pause = again): AsyncGenerator<Followed> {
  let at: TapPosition | null = null;
  let began = false;
  let lost = 0;
  let delay = pause.least;
  while (!signal.aborted) {
    let reason = "the tap ended";
    try {
      for await (const item of tap(at ? { ...asked, ...params(at) } : asked, signal)) {
        if (lost > 0) {
          yield { lost: "" };
          if (!at && began) {
            yield { gap: { skipped: "0", reason: unseen, since: new Date(lost).toISOString(), until: new Date().toISOString() } };
          }
        }
        [lost, delay, began] = [0, pause.least, true];
        at = placeAfter(at, item);
        yield item;
      }
    } catch (error) {
      reason = (error as Error).message;
    }
    if (signal.aborted) return;
    if (lost === 0) lost = Date.now();
    yield { lost: reason };
    await sleep(delay, signal);
    delay = Math.min(2 * delay, pause.most);
  }
}

/** What a gap between two times says; "" for those that are only counted. */
export function gapText(gap: TapGap): string {
  if (!gap.since || !gap.until) return "";
  const between = `between ${clock(gap.since)} and ${clock(gap.until)}`;
  switch (gap.reason) {
    case "discarded":
      return `Gap: the bus no longer has all that came ${between}`;
    case unseen:
      return `Gap: the API was away, and what came ${between} is not shown`;
  }
  return `Gap: ${gap.reason}, ${whole(Number(gap.skipped))} requests ${between}`;
}
