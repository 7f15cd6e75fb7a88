import { useMemo } from "preact/hooks";
import {
  count, edges, lastSeconds, resourceParams, routes, series, stat,
  type EdgeRow, type Resource, type RouteRow, type SeriesRow, type StatRow,
} from "./api";
import { Chart, type Line } from "./chart";
import { answers, bytes, ms, percent, rps, whole } from "./format";
import { About, Breakable, Name, Problem, Section, Success } from "./parts";
import { usePoll } from "./poll";
import { overviewHref } from "./route";
import { Tap } from "./tap";

const same = (a: Resource, b: Resource) =>
  a.cluster === b.cluster && a.namespace === b.namespace && a.kind === b.kind && a.name === b.name;

function Tiles({ row }: { row: StatRow }) {
  const s = row.stats;
  const requests = count(s.requests);
  const outcomes = answers(s.status, s.grpc_status);
  return (
    <dl class="tiles">
      <div>
        <dt>Success</dt>
        <dd><Success share={s.success} requests={requests} /></dd>
      </div>
      <div>
        <dt>Requests</dt>
        <dd data-requests={requests}>{whole(requests)}<small>{rps(s.rps)}/s</small></dd>
      </div>
      <div>
        <dt>Latency p50 · p95 · p99</dt>
        <dd>
          {requests > 0 && s.latency_ms
            ? `${ms(s.latency_ms.p50)} · ${ms(s.latency_ms.p95)} · ${ms(s.latency_ms.p99)}`
            : "–"}
        </dd>
      </div>
      <div>
        <dt>Answers by status</dt>
        <dd class="codes">
          {outcomes.length === 0 && "–"}
          {outcomes.map((o) => (
            <span key={o.name} class={o.failed ? "code bad" : "code"}>
              {o.name} <b>{whole(o.count)}</b>
            </span>
          ))}
        </dd>
      </div>
      <div>
        <dt>Read · written</dt>
        <dd>{bytes(s.tcp_read_bytes_rate)}/s · {bytes(s.tcp_write_bytes_rate)}/s</dd>
      </div>
      <div>
        <dt>Pods · open connections</dt>
        <dd>{row.pods_live}/{row.pods_seen} · {whole(count(row.tcp_open_connections))}</dd>
      </div>
    </dl>
  );
}

function Charts({ row }: { row?: SeriesRow }) {
  const { times, rate, success, latency } = useMemo(() => {
    const points = row?.points ?? [];
    const some = points.map((p) => count(p.requests) > 0);
    const where = (f: (p: (typeof points)[number]) => number) => points.map((p, i) => (some[i] ? f(p) : null));
    const seconds = points.length > 1 ? (Date.parse(points[1]!.start) - Date.parse(points[0]!.start)) / 1000 : 1;
    return {
      times: points.map((p) => Date.parse(p.start) / 1000),
      rate: [
        { label: "requests", color: "--c1", fill: true, values: points.map((p) => p.rps) },
        { label: "failed", color: "--bad", fill: true, values: points.map((p) => count(p.failures) / seconds) },
      ] satisfies Line[],
      success: [{ label: "success", color: "--good", values: where((p) => p.success) }] satisfies Line[],
      latency: [
        { label: "p50", color: "--c1", values: where((p) => p.latency_ms_p50) },
        { label: "p95", color: "--c2", values: where((p) => p.latency_ms_p95) },
        { label: "p99", color: "--c3", values: where((p) => p.latency_ms_p99) },
      ] satisfies Line[],
    };
  }, [row]);
  return (
    <div class="charts">
      <Chart title="Requests a second" times={times} lines={rate} format={rps} />
      <Chart title="Latency to the first byte" times={times} lines={latency} format={ms} />
      <Chart title="Success" times={times} lines={success} format={(n) => percent(n)} range={[0, 1.02]} />
    </div>
  );
}

function Edges({ rows, resource }: { rows: EdgeRow[]; resource: Resource }) {
  if (rows.length === 0) return <p class="dim">No peers in this window.</p>;
  const secured = (e: EdgeRow) => (e.tls === "none" ? `no (${e.tls_reason || "plain"})` : e.tls);
  return (
    <div class="scroll">
      <table class="cards">
        <thead>
          <tr>
            <th>Direction</th><th>Peer</th><th>Secured</th><th>Success</th><th class="num">RPS</th><th class="num">P99</th>
          </tr>
        </thead>
        <tbody>
          {rows.map((e) => {
            const out = same(e.source, resource);
            const peer = out ? e.destination : e.source;
            const requests = count(e.stats.requests);
            return (
              <tr key={`${out}${peer.namespace}/${peer.kind}/${peer.name}`}>
                <td data-label="Direction">{out ? "to" : "from"}</td>
                <th scope="row"><Name resource={peer} /> <span class="ns">{peer.namespace}</span></th>
                <td data-label="Secured">{secured(e)}</td>
                <td data-label="Success"><Success share={e.stats.success} requests={requests} /></td>
                <td data-label="RPS" class="num">{rps(e.stats.rps)}</td>
                <td data-label="P99" class="num">{requests > 0 && e.stats.latency_ms ? ms(e.stats.latency_ms.p99) : "–"}</td>
              </tr>
            );
          })}
        </tbody>
      </table>
    </div>
  );
}

function Routes({ rows }: { rows: RouteRow[] }) {
  if (rows.length === 0) return <p class="dim">No requests in this window.</p>;
  const sorted = [...rows].sort((a, b) => count(b.stats.failures) - count(a.stats.failures) || count(b.stats.requests) - count(a.stats.requests));
  return (
    <div class="scroll">
      <table class="cards">
        <thead>
          <tr>
            <th>Route</th><th>Success</th><th class="num">RPS</th><th class="num">P50</th><th class="num">P99</th>
          </tr>
        </thead>
        <tbody>
          {sorted.map((r) => {
            const requests = count(r.stats.requests);
            return (
              <tr key={`${r.protocol} ${r.authority} ${r.route}`}>
                <th scope="row" class="route"><Breakable text={r.route} /></th>
                <td data-label="Success"><Success share={r.stats.success} requests={requests} /></td>
                <td data-label="RPS" class="num">{rps(r.stats.rps)}</td>
                <td data-label="P50" class="num">{r.stats.latency_ms ? ms(r.stats.latency_ms.p50) : "–"}</td>
                <td data-label="P99" class="num">{r.stats.latency_ms ? ms(r.stats.latency_ms.p99) : "–"}</td>
              </tr>
            );
          })}
        </tbody>
      </table>
    </div>
  );
}

/** One workload: its numbers, charts, peers, routes, and its requests live. */
export function Workload({ resource, seconds }: { resource: Resource; seconds: number }) {
  const { data, error } = usePoll(
    async (signal) => {
      const selected = { ...resourceParams(resource), ...lastSeconds(seconds) };
      const span = Math.max(seconds, 120);
      const [numbers, trend, peers, paths] = await Promise.all([
        stat(selected, signal),
        series({ ...selected, ...lastSeconds(span), step: `${Math.ceil(span / 120)}s` }, signal),
        edges(selected, signal),
        routes(selected, signal),
      ]);
      return { coverage: numbers.coverage, row: numbers.rows[0], trend: trend.rows[0], edges: peers.rows, routes: paths.rows };
    },
    2000,
    [seconds],
  );
  return (
    <main>
      <div class="page-head">
        <h1><span class="kind">{resource.kind}/</span>{resource.name}</h1>
        <a href={overviewHref(resource.namespace)}>{resource.namespace}</a>
        {data?.row?.direction === "outbound" && <span class="tag">sends only</span>}
      </div>
      <About coverage={data?.coverage} />
      <Problem error={error} />
      {data && !data.row && (
        <div class="empty">
          <p>
            {resource.kind}/{resource.name} in {resource.namespace} has not reported in this window.
          </p>
          <p><a href={overviewHref()}>All workloads</a></p>
        </div>
      )}
      {data?.row && <Tiles row={data.row} />}
      <Charts row={data?.trend} />
      <Section title="Requests, live">
        <Tap resource={resource} />
      </Section>
      {data && (
        <>
          <Section title="Routes"><Routes rows={data.routes} /></Section>
          <Section title="Peers"><Edges rows={data.edges} resource={resource} /></Section>
        </>
      )}
    </main>
  );
}
