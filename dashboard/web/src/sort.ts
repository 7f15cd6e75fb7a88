import { count, type StatRow } from "./api";
import { meshed } from "./format";

export interface Sort {
  key: "name" | "meshed" | "success" | "rps" | "p50" | "p95" | "p99";
  down: boolean;
}

const name = (r: StatRow) => `${r.resource.namespace}/${r.resource.name}/${r.resource.kind}/${r.resource.cluster}`;

function value(r: StatRow, key: Exclude<Sort["key"], "name">): number {
  switch (key) {
    case "meshed":
      return meshed(r).part;
    case "success":
      // Without requests there is no rate: beside the best, not the worst.
      return count(r.stats.requests) > 0 ? r.stats.success : 2;
    case "rps":
      return r.stats.rps;
    default:
      return r.stats.latency_ms?.[key] ?? 0;
  }
}

/** Orders rows; equal ones by name, so that nothing jumps between answers. */
export function bySort({ key, down }: Sort): (a: StatRow, b: StatRow) => number {
  const sign = down ? -1 : 1;
  return (a, b) => {
    const order = key === "name" ? 0 : value(a, key) - value(b, key);
    if (order !== 0) return sign * order;
    return (key === "name" ? sign : 1) * name(a).localeCompare(name(b));
  };
}
