import type { ComponentChildren } from "preact";
import { ApiError, type Coverage, type Resource, type StatRow } from "./api";
import { health, meshed, percent } from "./format";
import { workloadHref } from "./route";

/** A success rate: its number, and a bar that shows it. */
export function Success({ share, requests }: { share: number; requests: number }) {
  if (requests === 0) return <span class="dim">–</span>;
  return (
    <span class={`success ${health(share, requests)}`}>
      <span class="bar" aria-hidden="true">
        <i style={{ width: `${share * 100}%` }} />
      </span>
      {percent(share)}
    </span>
  );
}

/** A workload's name, a link where it is one that Weir watches. */
export function Name({ resource }: { resource: Resource }) {
  const label = (
    <>
      <span class="kind">{resource.kind}/</span>
      {resource.name}
    </>
  );
  if (resource.kind === "ext" || !resource.kind) return <span class="name">{label}</span>;
  return (
    <a class="name" href={workloadHref(resource)}>
      {label}
    </a>
  );
}

/** How many of a resource's pods have a proxy, or, outside of Kubernetes, report. */
export function Meshed({ row }: { row: Pick<StatRow, "pods" | "pods_live" | "pods_seen"> }) {
  const { part, of, title } = meshed(row);
  if (of === 0) return <span class="dim">–</span>;
  return (
    <span class={part === of ? undefined : "warn-text"} title={title}>
      {part}/{of}
    </span>
  );
}

/** What went wrong, and that what is shown is old. */
export function Problem({ error }: { error?: Error }) {
  if (!error) return null;
  return (
    <p class="problem" role="alert">
      {error instanceof ApiError ? "The API says" : "The API does not answer"}: {error.message}. What is shown is from before;
      trying again.
    </p>
  );
}

/** What the numbers of a page are about. */
export function About({ coverage }: { coverage?: Coverage }) {
  if (!coverage) return null;
  const missing = coverage.aggregators_total - coverage.aggregators_answered;
  const partial = coverage.partitions_missing + coverage.partitions_behind;
  return (
    <p class="about">
      <span class="live" aria-hidden="true" /> {time(coverage.since)} to {time(coverage.until)}, every request counted,
      quantiles within {percent(coverage.quantile_error)}
      {coverage.oldest && <>, kept since {moment(coverage.oldest)}</>}
      {missing > 0 && <strong> – {missing} of {coverage.aggregators_total} aggregators did not answer</strong>}
      {partial > 0 && (
        <strong> – {partial} of {coverage.partitions_total} parts of the events are not all counted yet: numbers may be too low</strong>
      )}
    </p>
  );
}

/** A time of today, or a day with its time. */
const moment = (iso: string) =>
  new Date(iso).toDateString() === new Date().toDateString() ? time(iso) : new Date(iso).toLocaleString([], { hour12: false });
const time = (iso: string) => new Date(iso).toLocaleTimeString([], { hour12: false });

export function Section({ title, aside, children }: { title: string; aside?: ComponentChildren; children: ComponentChildren }) {
  return (
    <section>
      <div class="section-head">
        <h2>{title}</h2>
        {aside}
      </div>
      {children}
    </section>
  );
}

/** A path or gRPC method that may break after its separators only. */
export function Breakable({ text }: { text: string }) {
  const parts = text.split(/(?<=[/.])/);
  return (
    <>
      {parts.map((part, i) => (
        <>
          {i > 0 && <wbr />}
          {part}
        </>
      ))}
    </>
  );
}
