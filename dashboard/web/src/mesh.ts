// What the service-mesh page says, worked out from the API's answer.

import type { Component, KindCount, Mesh, NamespaceCount, PodState } from "./api";

export type Health = "good" | "warn" | "bad";

/** How a pod's dot looks: what it means is in words beside it. */
export function podHealth(pod: PodState): Health {
  if (pod.ready && pod.phase === "Running" && pod.status === "Running") return "good";
  return pod.phase === "Pending" || pod.status === "Terminating" || pod.status === "Running" ? "warn" : "bad";
}

export const podStatus = (pod: PodState): string => (pod.status === "Running" && !pod.ready ? "not ready" : pod.status);

/** What a pod's dot means. */
export function podTitle(pod: PodState): string {
  const restarts = pod.restarts === 0 ? "" : `, ${pod.restarts} ${pod.restarts === 1 ? "restart" : "restarts"}`;
  const ready = pod.status === "Running" && !pod.ready ? "Running, not ready" : pod.status;
  return `${pod.name}: ${ready}${restarts}`;
}

/** Ready pods of all, and restarts of all. */
export function componentSum(c: Component): { ready: number; total: number; restarts: number } {
  return {
    ready: c.pods.filter((p) => p.ready).length,
    total: c.pods.length,
    restarts: c.pods.reduce((n, p) => n + p.restarts, 0),
  };
}

const system = new Set(["kube-system", "kube-public", "kube-node-lease"]);

/** Namespaces with pods that could be meshed and are not; those with the most first. */
export function unmeshed(mesh: Mesh): NamespaceCount[] {
  const own = new Set(mesh.components.map((c) => c.resource.namespace));
  return mesh.namespaces
    .filter((n) => !system.has(n.namespace) && !own.has(n.namespace) && n.pods.meshed < n.pods.total)
    .sort((a, b) => b.pods.total - b.pods.meshed - (a.pods.total - a.pods.meshed) || a.namespace.localeCompare(b.namespace));
}

const names: Record<string, string> = {
  deploy: "Deployments", sts: "StatefulSets", ds: "DaemonSets", job: "Jobs", cronjob: "CronJobs",
  rs: "ReplicaSets", rc: "ReplicationControllers", pod: "Single pods",
};

export const kindName = (kind: string): string => names[kind] ?? kind;

/** Deployments first, then by name. */
export const byKind = (a: KindCount, b: KindCount): number =>
  Number(b.kind === "deploy") - Number(a.kind === "deploy") || kindName(a.kind).localeCompare(kindName(b.kind));

/** Versions with their number of proxies, the most first. */
export const versions = (all: Record<string, number>): [string, number][] =>
  Object.entries(all).sort((a, b) => b[1] - a[1] || a[0].localeCompare(b[0]));

/** A duration as protobuf's JSON has it ("1.5s"), in seconds. */
export const seconds = (duration: string): number => Number(duration.replace(/s$/, "")) || 0;

/** How far the aggregators are behind, at most, in seconds. */
export const behind = (mesh: Mesh): number => Math.max(0, ...(mesh.bus?.lags ?? []).map((l) => seconds(l.behind)));

/** What is wrong with the bus and the aggregators, in words. */
export function troubles(mesh: Mesh): string[] {
  const out: string[] = [];
  if (mesh.kubernetes_error) out.push(`The controller does not say what is in the cluster: ${mesh.kubernetes_error}`);
  const a = mesh.aggregators;
  if (a?.error) out.push(`No aggregator answers: ${a.error}`);
  else if (a && a.partitions_missing > 0) out.push(`Nobody counts ${a.partitions_missing} of ${a.partitions_total} parts of the events`);
  if (mesh.bus?.error) out.push(`The bus does not say all: ${mesh.bus.error}`);
  for (const s of mesh.bus?.streams ?? []) {
    if (!s.exists) out.push(`The bus lacks the stream ${s.name}`);
    else if (s.replicas_current < s.replicas) out.push(`${s.name} has ${s.replicas_current} of ${s.replicas} replicas up to date`);
  }
  const late = behind(mesh);
  if (late > 30) out.push(`Statistics are ${Math.round(late)} s late`);
  return out;
}
