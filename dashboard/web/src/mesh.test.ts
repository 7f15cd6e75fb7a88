import { expect, test } from "vitest";
import type { Mesh, PodState } from "./api";
import { meshed } from "./format";
import { behind, byKind, componentSum, podHealth, podTitle, troubles, unmeshed, versions } from "./mesh";
import { parse } from "./route";

const pod = (p: Partial<PodState> = {}): PodState => ({
  name: "weir-bus-0", node: "n", phase: "Running", status: "Running", ready: true, restarts: 0, ...p,
});

const counts = (total: number, meshed: number) => ({ total, meshed, ready: total, proxy_ready: meshed });

const mesh = (m: Partial<Mesh> = {}): Mesh => ({
  server: { version: "v1" }, kubernetes: true, kubernetes_error: "", cluster: "c", components: [], kinds: [], namespaces: [], namespaces_total: 0,
  pods: counts(0, 0), proxy_versions: {}, proxies_live: 0,
  aggregators: { answered: 1, total: 1, partitions_missing: 0, partitions_total: 16, error: "" }, bus: null, ...m,
});

test("a pod's dot", () => {
  expect(podHealth(pod())).toBe("good");
  expect(podHealth(pod({ ready: false }))).toBe("warn");
  expect(podHealth(pod({ ready: false, phase: "Pending", status: "ContainerCreating" }))).toBe("warn");
  expect(podHealth(pod({ status: "Terminating" }))).toBe("warn");
  expect(podHealth(pod({ ready: false, status: "CrashLoopBackOff" }))).toBe("bad");
  expect(podHealth(pod({ ready: false, phase: "Failed", status: "Evicted" }))).toBe("bad");
  expect(podTitle(pod({ ready: false, restarts: 1 }))).toBe("weir-bus-0: Running, not ready, 1 restart");
  expect(podTitle(pod({ restarts: 3 }))).toBe("weir-bus-0: Running, 3 restarts");
});

test("a component's sum", () => {
  const resource = { cluster: "c", namespace: "weir", kind: "sts", name: "weir-bus" };
  expect(componentSum({ name: "bus", version: "v1", resource, pods: [pod({ restarts: 2 }), pod({ ready: false, restarts: 1 })] })).toEqual({
    ready: 1, total: 2, restarts: 3,
  });
});

test("what to mesh next", () => {
  const resource = { cluster: "c", namespace: "weir", kind: "sts", name: "weir-bus" };
  const m = mesh({
    components: [{ name: "bus", version: "v1", resource, pods: [] }],
    namespaces: [
      { namespace: "done", pods: counts(3, 3) },
      { namespace: "few", pods: counts(3, 2) },
      { namespace: "kube-system", pods: counts(9, 0) },
      { namespace: "many", pods: counts(7, 0) },
      { namespace: "weir", pods: counts(4, 0) },
    ],
  });
  expect(unmeshed(m).map((n) => n.namespace)).toEqual(["many", "few"]);
  expect(unmeshed(mesh())).toEqual([]);
});

test("order of kinds and versions", () => {
  const kind = (kind: string) => ({ kind, meshed: 0, partly: 0, unmeshed: 0 });
  expect([kind("sts"), kind("job"), kind("deploy")].sort(byKind).map((k) => k.kind)).toEqual(["deploy", "job", "sts"]);
  expect(versions({ "v1.0.0": 2, "v1.1.0": 9, "v0.9.0": 2 }).map(([v]) => v)).toEqual(["v1.1.0", "v0.9.0", "v1.0.0"]);
});

test("troubles", () => {
  expect(troubles(mesh())).toEqual([]);
  const stream = { name: "WEIR_EVENTS", exists: true, replicas: 3, replicas_current: 2 };
  const m = mesh({
    kubernetes_error: "still reading",
    aggregators: { answered: 1, total: 2, partitions_missing: 8, partitions_total: 16, error: "" },
    bus: { streams: [stream, { ...stream, name: "WEIR_ROLLUPS", exists: false }], lags: [{ partition: 0, behind: "61.500s" }, { partition: 1, behind: "0s" }], error: "" },
  });
  expect(behind(m)).toBe(61.5);
  expect(troubles(m)).toEqual([
    "The controller does not say what is in the cluster: still reading",
    "Nobody counts 8 of 16 parts of the events",
    "WEIR_EVENTS has 2 of 3 replicas up to date",
    "The bus lacks the stream WEIR_ROLLUPS",
    "Statistics are 62 s late",
  ]);
});

test("meshed pods, with and without Kubernetes", () => {
  expect(meshed({ pods: { meshed: 1, total: 3 }, pods_live: 1, pods_seen: 1 })).toMatchObject({ part: 1, of: 3 });
  expect(meshed({ pods: null, pods_live: 1, pods_seen: 2 })).toMatchObject({ part: 1, of: 2 });
  expect(meshed({ pods: { meshed: 0, total: 0 }, pods_live: 0, pods_seen: 0 })).toMatchObject({ of: 0 });
});

test("the page's address", () => {
  expect(parse("#/mesh")).toEqual({ page: "mesh" });
});
