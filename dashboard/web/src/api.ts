// The API's JSON, as /api/v1/openapi.json describes it. Counts come as strings
// (they are 64 bits wide); `count` reads them.

export interface Resource {
  cluster: string;
  namespace: string;
  kind: string;
  name: string;
}

export interface Quantiles {
  p50: number;
  p95: number;
  p99: number;
  p999: number;
  max: number;
  mean: number;
}

export interface Stats {
  requests: string;
  successes: string;
  failures: string;
  success: number;
  rps: number;
  status: Record<string, string>;
  grpc_status: Record<string, string>;
  latency_ms: Quantiles | null;
  duration_ms: Quantiles | null;
  request_bytes: string;
  response_bytes: string;
  tcp_connections: string;
  tcp_read_bytes_rate: number;
  tcp_write_bytes_rate: number;
}

export interface Coverage {
  since: string;
  until: string;
  oldest: string | null;
  quantile_error: number;
  aggregators_answered: number;
  aggregators_total: number;
  partitions_missing: number;
  partitions_behind: number;
  partitions_total: number;
}

/** Numbers of pods, as Kubernetes knows them. */
export interface PodCounts {
  total: number;
  meshed: number;
  ready: number;
  proxy_ready: number;
}

export interface StatRow {
  resource: Resource;
  stats: Stats;
  /** Null where no controller answers, or it knows nothing of the resource. */
  pods: PodCounts | null;
  pod_status: string;
  pods_seen: number;
  pods_live: number;
  tcp_open_connections: string;
  shed: string;
  lost_batches: string;
  direction: string;
}

export interface Point {
  start: string;
  requests: string;
  failures: string;
  rps: number;
  success: number;
  latency_ms_p50: number;
  latency_ms_p95: number;
  latency_ms_p99: number;
}

export interface SeriesRow {
  resource: Resource;
  points: Point[];
}

export interface EdgeRow {
  source: Resource;
  destination: Resource;
  tls: string;
  tls_reason: string;
  stats: Stats;
  seen_by: string;
}

export interface RouteRow {
  resource: Resource;
  route: string;
  authority: string;
  protocol: string;
  stats: Stats;
}

export interface Endpoint {
  ip: string;
  port: number;
  workload: Resource | null;
  pod: string;
}

export interface TapEvent {
  id: string;
  kind: string;
  source: Endpoint | null;
  destination: Endpoint | null;
  proxy_direction: string;
  protocol: string;
  method: string;
  authority: string;
  path: string;
  status: number;
  grpc_status?: number;
  error: string;
  start: string;
  latency_us: string;
  duration_us: string;
  request_bytes: string;
  response_bytes: string;
  /** The place of its batch in the stream of events. */
  sequence: string;
}

/** Events that a tap did not get; since and until only where nobody can tell which. */
export interface TapGap {
  skipped: string;
  reason: string;
  since?: string | null;
  until?: string | null;
}

/** A place in the stream of events, to go on from. */
export interface TapPosition {
  stream: string;
  sequence: string;
  events: number;
  stored: string;
}

export interface TapItem {
  event?: TapEvent;
  gap?: TapGap;
  progress?: { position?: TapPosition | null };
}

export interface PodState {
  name: string;
  node: string;
  phase: string;
  status: string;
  ready: boolean;
  restarts: number;
}

export interface Component {
  name: string;
  resource: Resource;
  version: string;
  pods: PodState[];
}

export interface KindCount {
  kind: string;
  meshed: number;
  partly: number;
  unmeshed: number;
}

export interface NamespaceCount {
  namespace: string;
  pods: PodCounts;
}

export interface Stream {
  name: string;
  exists: boolean;
  replicas: number;
  replicas_current: number;
}

export interface Mesh {
  server: { version: string } | null;
  kubernetes: boolean;
  kubernetes_error: string;
  cluster: string;
  components: Component[];
  kinds: KindCount[];
  namespaces: NamespaceCount[];
  namespaces_total: number;
  pods: PodCounts | null;
  proxy_versions: Record<string, number>;
  proxies_live: number;
  aggregators: { answered: number; total: number; partitions_missing: number; partitions_total: number; error: string } | null;
  bus: { streams: Stream[]; lags: { partition: number; behind: string }[]; error: string } | null;
}

export const count = (s: string | undefined): number => Number(s ?? 0);

/** The last n seconds, as query parameters. */
export const lastSeconds = (n: number): Record<string, string> => ({ "window.length": `${n}s` });

export function resourceParams(r: Partial<Resource>, prefix = "resource"): Record<string, string> {
  const params: Record<string, string> = {};
  for (const key of ["cluster", "namespace", "kind", "name"] as const) {
    const value = r[key];
    if (value) params[`${prefix}.${key}`] = value;
  }
  return params;
}

/** An answer of the API that is no answer; the message is the API's own. */
export class ApiError extends Error {
  constructor(
    readonly status: number,
    message: string,
  ) {
    super(message);
  }
}

async function failure(resp: Response): Promise<ApiError> {
  const text = await resp.text();
  try {
    const body = JSON.parse(text) as { message?: string };
    return new ApiError(resp.status, body.message || resp.statusText);
  } catch {
    return new ApiError(resp.status, text.slice(0, 300) || resp.statusText);
  }
}

async function get<T>(method: string, params: Record<string, string>, signal?: AbortSignal): Promise<T> {
  const resp = await fetch(`api/v1/${method}?${new URLSearchParams(params)}`, { signal });
  if (!resp.ok) throw await failure(resp);
  return (await resp.json()) as T;
}

export type Params = Record<string, string>;
export const stat = (p: Params, signal?: AbortSignal) =>
  get<{ rows: StatRow[]; coverage: Coverage }>("stat", p, signal);
export const series = (p: Params, signal?: AbortSignal) =>
  get<{ rows: SeriesRow[]; coverage: Coverage; step: string }>("series", p, signal);
export const edges = (p: Params, signal?: AbortSignal) => get<{ rows: EdgeRow[] }>("edges", p, signal);
export const routes = (p: Params, signal?: AbortSignal) => get<{ rows: RouteRow[] }>("routes", p, signal);
export const mesh = (signal?: AbortSignal) => get<Mesh>("mesh", {}, signal);
export const version = (signal?: AbortSignal) => get<{ version: string }>("version", {}, signal);

/** Splits a byte stream into lines; the last one may lack its line end. */
export async function* lines(body: ReadableStream<Uint8Array>): AsyncGenerator<string> {
  const decoder = new TextDecoder();
  const reader = body.getReader();
  let rest = "";
  try {
    for (;;) {
      const { value, done } = await reader.read();
      if (done) break;
      const parts = (rest + decoder.decode(value, { stream: true })).split("\n");
      rest = parts.pop() ?? "";
      for (const line of parts) if (line.trim()) yield line;
    }
    rest += decoder.decode();
    if (rest.trim()) yield rest;
  } finally {
    await reader.cancel().catch(() => undefined); // an aborted fetch has nothing to cancel
  }
}

/** Streams a tap until the signal aborts or the server ends it. */
export async function* tap(params: Params, signal: AbortSignal): AsyncGenerator<TapItem> {
  const resp = await fetch(`api/v1/tap?${new URLSearchParams(params)}`, { signal });
  if (!resp.ok || !resp.body) throw await failure(resp);
  for await (const line of lines(resp.body)) {
    const message = JSON.parse(line) as { result?: TapItem; error?: { message?: string } };
    if (message.error) throw new ApiError(500, message.error.message ?? "the tap ended");
    if (message.result) yield message.result;
  }
}
