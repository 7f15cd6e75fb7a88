import { useEffect, useRef, useState } from "preact/hooks";
import { count, resourceParams, type Endpoint, type Resource, type TapEvent } from "./api";
import { follow, gapText } from "./follow";
import { clock, failed, grpcName, micros } from "./format";

const shown = 60;

const endpoint = (e: Endpoint | null): string =>
  !e ? "–" : e.workload?.name ? `${e.workload.kind}/${e.workload.name}` : `${e.ip}:${e.port}`;

/** The outcome in a word: gRPC status where it failed, HTTP status, or the error. */
export function outcome(e: TapEvent): string {
  if (e.error) return e.error;
  if (e.grpc_status !== undefined) return grpcName(e.grpc_status);
  return e.status ? String(e.status) : e.kind;
}

/** The live requests of one workload. They arrive whole; the page shows the newest few. */
export function Tap({ resource }: { resource: Resource }) {
  const [running, setRunning] = useState(true);
  const [onlyFailed, setOnlyFailed] = useState(false);
  const [rows, setRows] = useState<TapEvent[]>([]);
  const [problem, setProblem] = useState("");
  const [gap, setGap] = useState("");
  const failedOnly = useRef(onlyFailed);
  const seen = useRef({ events: 0, skipped: 0 });

  useEffect(() => {
    if (!running) return;
    const abort = new AbortController();
    // What arrives between two frames is shown at once: a busy workload must
    // not make the page draw for each request.
    let pending: TapEvent[] = [];
    const draw = setInterval(() => {
      if (pending.length === 0) return;
      const fresh = failedOnly.current ? pending.filter(failed) : pending;
      pending = [];
      setRows((old) => [...fresh.reverse(), ...old].slice(0, shown));
    }, 250);
    void (async () => {
      for await (const item of follow(resourceParams(resource), abort.signal)) {
        if (item.lost !== undefined) setProblem(item.lost);
        if (item.gap) {
          seen.current.skipped += count(item.gap.skipped);
          setGap((old) => gapText(item.gap!) || old);
        }
        if (!item.event) continue;
        seen.current.events++;
        if (failedOnly.current && !failed(item.event)) continue;
        pending.push(item.event);
        if (pending.length > shown) pending.shift();
      }
    })();
    return () => {
      abort.abort();
      clearInterval(draw);
    };
  }, [running]);

  return (
    <div class="tap">
      <div class="controls">
        <button onClick={() => setRunning(!running)}>{running ? "Pause" : "Go on"}</button>
        <label>
          <input
            type="checkbox"
            checked={onlyFailed}
            onChange={(e) => {
              setRows([]);
              failedOnly.current = e.currentTarget.checked;
              setOnlyFailed(e.currentTarget.checked);
            }}
          />{" "}
          failed only
        </label>
        <span class="dim" role="status">
          {seen.current.events.toLocaleString("en-US")} seen
          {seen.current.skipped > 0 && `, ${seen.current.skipped.toLocaleString("en-US")} missing (lost or shed by their proxies)`}
        </span>
        {problem && <span class="problem">{problem}; trying again</span>}
        {gap && <span class="problem gap">{gap}</span>}
      </div>
      <div class="scroll stream" tabIndex={0} aria-label="Live requests">
        <table>
          <thead>
            <tr>
              <th>Started</th><th>From</th><th>To</th><th>Request</th><th>Answer</th><th class="num">Latency</th>
            </tr>
          </thead>
          <tbody>
            {rows.map((e) => (
              <tr key={e.id} class={failed(e) ? "failed" : undefined}>
                <td class="mono dim">{clock(e.start)}</td>
                <td>{endpoint(e.source)}</td>
                <td>{endpoint(e.destination)}</td>
                <td class="mono">{e.method ? `${e.method} ${e.path}` : e.protocol}</td>
                <td class="mono">{outcome(e)}</td>
                <td class="mono num">{micros(count(e.latency_us))}</td>
              </tr>
            ))}
          </tbody>
        </table>
        {rows.length === 0 && <p class="dim">{running ? "Waiting for requests…" : "Paused."}</p>}
      </div>
    </div>
  );
}
