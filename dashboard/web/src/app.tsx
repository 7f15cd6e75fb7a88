import { useState } from "preact/hooks";
import { version } from "./api";
import { Overview } from "./overview";
import { usePoll } from "./poll";
import { meshHref, overviewHref, useRoute } from "./route";
import { ServiceMesh } from "./servicemesh";
import { Workload } from "./workload";

const windows: [number, string][] = [
  [60, "1 min"],
  [300, "5 min"],
  [900, "15 min"],
];

function Page({ seconds }: { seconds: number }) {
  const route = useRoute();
  switch (route.page) {
    case "overview":
      return <Overview key={route.namespace} namespace={route.namespace} seconds={seconds} />;
    case "mesh":
      return <ServiceMesh />;
    case "workload":
      return <Workload key={location.hash} resource={route.resource} seconds={seconds} />;
    case "unknown":
      return (
        <main>
          <h1>No such page</h1>
          <p>
            There is nothing at <code>{route.hash}</code>. <a href={overviewHref()}>All workloads</a>
          </p>
        </main>
      );
  }
}

export function App() {
  const [seconds, setSeconds] = useState(60);
  const { page } = useRoute();
  const build = usePoll(version, 30_000, []);
  return (
    <>
      <header class="top">
        <a class="brand" href={overviewHref()}>
          <img src="./icon.svg" alt="" width="28" height="28" />
          <span>Weir</span>
        </a>
        <nav>
          <a href={overviewHref()} aria-current={page === "overview" || page === "workload" ? "page" : undefined}>Workloads</a>
          <a href={meshHref} aria-current={page === "mesh" ? "page" : undefined}>Service mesh</a>
        </nav>
        {page !== "mesh" && (
          <div class="segments" role="group" aria-label="Window">
            {windows.map(([n, label]) => (
              <button key={n} aria-pressed={n === seconds} onClick={() => setSeconds(n)}>
                {label}
              </button>
            ))}
          </div>
        )}
      </header>
      <Page seconds={seconds} />
      <footer>
        {build.data && <span>weir {build.data.version}</span>}
        <a href="api/v1/openapi.json">API</a>
      </footer>
    </>
  );
}
