import { useState } from "preact/hooks";
import { count, lastSeconds, resourceParams, series, stat, type SeriesRow, type StatRow } from "./api";
import { ms, rps, whole } from "./format";
import { About, Meshed, Name, Problem, Success } from "./parts";
import { usePoll } from "./poll";
import { overviewHref, workloadHref } from "./route";
import { Sparkline } from "./sparkline";
import { bySort, type Sort } from "./sort";

const columns: { key: Sort["key"]; label: string }[] = [
  { key: "name", label: "Workload" },
  { key: "meshed", label: "Meshed" },
  { key: "success", label: "Success" },
  { key: "rps", label: "RPS" },
  { key: "p50", label: "P50" },
  { key: "p95", label: "P95" },
  { key: "p99", label: "P99" },
];

function Row({ row, trend }: { row: StatRow; trend?: SeriesRow }) {
  const requests = count(row.stats.requests);
  const q = requests > 0 ? row.stats.latency_ms : null;
  const quantile = (v?: number) => (v === undefined ? <span class="dim">–</span> : ms(v));
  const lost = count(row.lost_batches);
  return (
    <tr data-workload={`${row.resource.kind}/${row.resource.name}`}>
      <th scope="row">
        <Name resource={row.resource} />
        <span class="ns">{row.resource.namespace}</span>
        {row.direction === "outbound" && (
          <span class="tag" title="It receives no requests; these are the ones it sends.">
            sends only
          </span>
        )}
        {lost > 0 && <span class="tag bad" title="Batches that never came: their requests are not in these numbers.">incomplete</span>}
      </th>
      <td data-label="Meshed">
        <Meshed row={row} />
      </td>
      <td data-label="Success">
        <Success share={row.stats.success} requests={requests} />
      </td>
      <td data-label="RPS" class="num" data-requests={requests}>
        {requests === 0 && row.pods_seen === 0 && row.pods_live === 0 ? <span class="dim">–</span> : rps(row.stats.rps)}
      </td>
      <td data-label="P50" class="num">{quantile(q?.p50)}</td>
      <td data-label="P95" class="num">{quantile(q?.p95)}</td>
      <td data-label="P99" class="num">{quantile(q?.p99)}</td>
      <td class="trend">
        <Sparkline values={(trend?.points ?? []).map((p) => p.rps)} label={`requests a second of ${row.resource.name}`} />
      </td>
    </tr>
  );
}

/** Every workload's golden numbers, live. */
export function Overview({ namespace, seconds }: { namespace: string; seconds: number }) {
  const [sort, setSort] = useState<Sort>({ key: "name", down: false });
  const { data, error } = usePoll(
    async (signal) => {
      const selected = { ...resourceParams({ namespace }), ...lastSeconds(seconds) };
      const span = Math.max(seconds, 120);
      const [numbers, trends] = await Promise.all([
        stat(selected, signal),
        series({ ...selected, ...lastSeconds(span), step: `${Math.ceil(span / 40)}s` }, signal),
      ]);
      return { numbers, trends: new Map(trends.rows.map((r) => [workloadHref(r.resource), r])) };
    },
    2000,
    [namespace, seconds],
  );
  const rows = [...(data?.numbers.rows ?? [])].sort(bySort(sort));
  const failing = rows.filter((r) => r.direction !== "outbound" && count(r.stats.failures) > 0);
  const toggle = (key: Sort["key"]) => setSort({ key, down: sort.key === key ? !sort.down : key !== "name" });

  return (
    <main>
      <div class="page-head">
        <h1>{namespace ? <>Workloads in {namespace}</> : "Workloads"}</h1>
        {namespace && <a href={overviewHref()}>all namespaces</a>}
      </div>
      <About coverage={data?.numbers.coverage} />
      <Problem error={error} />
      {data && rows.length === 0 && (
        <div class="empty">
          <p>No workload has reported in this window.</p>
          <p>
            A workload appears as soon as its proxy runs, and in Kubernetes as soon as it has pods: try <code>weir demo</code>, or start a <code>weir-proxy</code> with{" "}
            <code>--bus</code> set to this mesh's bus.
          </p>
        </div>
      )}
      {!data && !error && <p class="dim">Asking the API…</p>}
      {rows.length > 0 && (
        <>
          {failing.length > 0 && (
            <p class="notice">
              {failing.map((r, i) => (
                <>
                  {i > 0 && ", "}
                  <Name resource={r.resource} /> failed {whole(count(r.stats.failures))} of {whole(count(r.stats.requests))}
                </>
              ))}
            </p>
          )}
          <div class="scroll">
            <table class="cards">
              <thead>
                <tr>
                  {columns.map((c) => (
                    <th
                      key={c.key}
                      scope="col"
                      class={c.key === "rps" || c.key.startsWith("p") ? "num" : undefined}
                      aria-sort={sort.key === c.key ? (sort.down ? "descending" : "ascending") : "none"}
                    >
                      <button onClick={() => toggle(c.key)}>
                        {c.label}
                        <span aria-hidden="true">{sort.key === c.key ? (sort.down ? " ↓" : " ↑") : ""}</span>
                      </button>
                    </th>
                  ))}
                  <th scope="col">Requests a second</th>
                </tr>
              </thead>
              <tbody>
                {rows.map((r) => (
                  <Row key={workloadHref(r.resource)} row={r} trend={data?.trends.get(workloadHref(r.resource))} />
                ))}
              </tbody>
            </table>
          </div>
        </>
      )}
    </main>
  );
}
