// Numbers as the CLI prints them.

/** Cut rather than rounded: what is not all must not read 100.00%. */
export const percent = (share: number): string => `${(Math.floor(share * 1e4 + 1e-9) / 100).toFixed(2)}%`;

export function rps(n: number): string {
  return n >= 1000 ? `${(n / 1000).toFixed(1)}k` : n.toFixed(1);
}

/** Milliseconds: two digits below 10 ms, as most answers on a machine are short. */
export function ms(n: number): string {
  if (n >= 10_000) return `${(n / 1000).toFixed(1)}s`;
  if (n >= 9.95 || n === 0) return `${Math.round(n)}ms`;
  return `${n.toFixed(n < 0.995 ? 2 : 1)}ms`;
}

export function micros(n: number): string {
  return n < 1000 ? `${n}µs` : ms(n / 1000);
}

export function bytes(n: number): string {
  const units = ["B", "KB", "MB", "GB", "TB"];
  let i = 0;
  while (n >= 1000 && i < units.length - 1) {
    n /= 1000;
    i++;
  }
  return `${i === 0 ? Math.round(n) : n.toFixed(1)}${units[i]}`;
}

export function whole(n: number): string {
  return n.toLocaleString("en-US");
}

export function clock(iso: string): string {
  const t = new Date(iso);
  const two = (n: number, width = 2) => String(n).padStart(width, "0");
  return `${two(t.getHours())}:${two(t.getMinutes())}:${two(t.getSeconds())}.${two(t.getMilliseconds(), 3)}`;
}

/** Pods with a proxy of all, as Kubernetes knows them, else those that report now of those that were seen. */
export function meshed(row: { pods: { meshed: number; total: number } | null; pods_live: number; pods_seen: number }): {
  part: number;
  of: number;
  title: string;
} {
  if (row.pods && row.pods.total > 0) {
    return { part: row.pods.meshed, of: row.pods.total, title: `${row.pods.meshed} of ${row.pods.total} pods have a proxy` };
  }
  const of = Math.max(row.pods_seen, row.pods_live);
  return { part: row.pods_live, of, title: `${row.pods_live} of ${of} pods seen in this window report now` };
}

/** How good a success rate is: for colour, always beside the number itself. */
export function health(share: number, requests: number): "none" | "good" | "warn" | "bad" {
  if (requests === 0) return "none";
  if (share >= 0.999) return "good";
  return share >= 0.95 ? "warn" : "bad";
}

const grpcNames = [
  "OK", "Canceled", "Unknown", "InvalidArgument", "DeadlineExceeded", "NotFound", "AlreadyExists", "PermissionDenied",
  "ResourceExhausted", "FailedPrecondition", "Aborted", "OutOfRange", "Unimplemented", "Internal", "Unavailable", "DataLoss",
  "Unauthenticated",
];

/** The name of a gRPC status; -1 stands for a call that ended without one. */
export const grpcName = (code: number): string => (code === -1 ? "no status" : (grpcNames[code] ?? `code ${code}`));

// What counts as failed, as the API classifies it.
const grpcFailures = new Set([-1, 2, 4, 7, 13, 14, 15]);

/** Whether one exchange failed, so that those marked are those that lower the success rate. */
export const failed = (e: { error: string; status: number; grpc_status?: number }): boolean =>
  e.error !== "" || e.status >= 500 || (e.grpc_status !== undefined && grpcFailures.has(e.grpc_status));

export interface Answer {
  name: string;
  failed: boolean;
  count: number;
}

/**
 * How many answers there were of each kind: by gRPC status where there are gRPC
 * calls, whose HTTP status is 200 whatever became of them, else by HTTP status.
 */
export function answers(status: Record<string, string>, grpc: Record<string, string>): Answer[] {
  const byCode = (a: [string, string], b: [string, string]) => Number(a[0]) - Number(b[0]);
  const calls = Object.entries(grpc).sort(byCode);
  if (calls.length > 0) {
    return calls.map(([code, n]) => ({ name: grpcName(Number(code)), failed: grpcFailures.has(Number(code)), count: Number(n) }));
  }
  return Object.entries(status)
    .sort(byCode)
    .map(([code, n]) => ({ name: code === "0" ? "none" : code, failed: code === "0" || Number(code) >= 500, count: Number(n) }));
}
