import { useEffect, useState } from "preact/hooks";
import type { Resource } from "./api";

/** Where the user is: the overview, the service mesh, or one workload. Kept in the URL's hash. */
export type Route =
  | { page: "overview"; namespace: string }
  | { page: "mesh" }
  | { page: "workload"; resource: Resource }
  | { page: "unknown"; hash: string };

const kinds = new Set(["deploy", "sts", "ds", "job", "cronjob", "rs", "rc", "pod", "ext"]);

/** `#/`, `#/mesh`, `#/ns/NAMESPACE` and `#/CLUSTER/NAMESPACE/KIND/NAME`. */
export function parse(hash: string): Route {
  let parts: string[];
  try {
    parts = hash.replace(/^#?\/?/, "").split("/").filter(Boolean).map(decodeURIComponent);
  } catch {
    return { page: "unknown", hash };
  }
  const [a, b, c, d] = parts;
  if (parts.length === 0) return { page: "overview", namespace: "" };
  if (parts.length === 1 && a === "mesh") return { page: "mesh" };
  if (parts.length === 2 && a === "ns" && b) return { page: "overview", namespace: b };
  if (parts.length === 4 && a && b && c && d && kinds.has(c)) {
    return { page: "workload", resource: { cluster: a, namespace: b, kind: c, name: d } };
  }
  return { page: "unknown", hash };
}

export const workloadHref = (r: Resource): string =>
  "#/" + [r.cluster, r.namespace, r.kind, r.name].map(encodeURIComponent).join("/");

export const meshHref = "#/mesh";

export const overviewHref = (namespace = ""): string => (namespace ? `#/ns/${encodeURIComponent(namespace)}` : "#/");

export function useRoute(): Route {
  const [route, set] = useState(() => parse(location.hash));
  useEffect(() => {
    const update = () => set(parse(location.hash));
    addEventListener("hashchange", update);
    return () => removeEventListener("hashchange", update);
  }, []);
  return route;
}
